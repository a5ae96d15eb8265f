"""Operating-system helpers: the CPU cores this process may use, and temporary signal handlers."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


def available_cores() -> int:
    """Cores that this process may use, which on a shared machine or a cluster are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number_of(name: str) -> signal.Signals | None:
    """The signal of that name, ``None`` where the system does not have it (Windows has few)."""
    return getattr(signal, name, None)


@contextmanager
def told_of(names: Sequence[str], tell: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``tell`` on these signals, as far as the system knows them.

    One that is ignored already stays so: nohup, and a shell that starts a command in the background, hand that on.
    """
    there = [number for name in names if (number := number_of(name)) is not None]
    heard = [number for number in there if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, tell) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
