"""One thread for the whole test run: small tensors, and threads that wait for each other on a busy machine cost tenfold."""

import gc
import os
import signal

from hypothesis import HealthCheck, settings

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when numpy and torch are first imported, and by the processes that tests start

# What a script starts in the background ignores Ctrl-C, and so does all that it starts, whose answer to Ctrl-C is tested here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure, and folders that examples share are written anew by each.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("busy")


def pytest_collection_finish() -> None:
    """Spare later garbage collections what the imports left: `ablate run` collects before it times calls, and tests run it often."""
    gc.collect()
    gc.freeze()
