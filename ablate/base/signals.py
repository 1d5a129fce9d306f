"""Signal handlers that are installed for the duration of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def handled(handler: Handler, *signals: signal.Signals) -> Iterator[None]:
    """Handle some signals while the block runs; does nothing outside the main thread.

    Python allows handlers in the main thread only: elsewhere they belong to the calling program.
    """
    try:
        before = {number: signal.signal(number, handler) for number in signals}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
