"""The program `ablate`, also as `python -m ablate`."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line and run it. Ctrl-C ends the import at once, with exit code 130."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed: else the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if interruptible := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # An exception in the middle of an import could be taken for a missing library.
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from ablate import cli

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    sys.exit(main())
