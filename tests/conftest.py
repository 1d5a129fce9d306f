"""One thread for the whole test run: small tensors, and threads that wait for each other on a busy machine cost tenfold."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when numpy and torch are first imported, and by the processes that tests start
