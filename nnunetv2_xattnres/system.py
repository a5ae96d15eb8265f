"""Operating-system helpers: the CPU cores this process may use, the console, and temporary signal handlers."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from nnunetv2_xattnres.errors import InputError


def available_cores() -> int:
    """Cores that this process may use, which on a shared machine or a cluster are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def escape_what_the_console_lacks() -> None:
    """Let standard output print characters that its encoding lacks as escapes, such as ``\\u0394``.

    Consoles of Windows know few letters (cp1252 and the like); a name with another one would end the command in a
    traceback, after the work was done. Standard error does this already.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def check_device(device: str) -> None:
    """Try to compute on a device, before a command writes or waits for anything.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``, or one of several, such as ``cuda:1``.

    Raises:
        InputError: torch cannot use it.
    """
    import torch

    try:
        torch.zeros(1, device=device).add_(1)
    except Exception as error:  # torch raises AssertionError without CUDA, RuntimeError or its own for a broken driver
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"torch {torch.__version__} cannot compute on the device {device} ({reason}): choose --device cpu, or "
            "see what `nnunetv2_xattnres doctor` says about the device"
        ) from error


def number_of(name: str) -> signal.Signals | None:
    """The signal of that name, ``None`` where the system does not have it (Windows has few)."""
    return getattr(signal, name, None)


def interrupt(number: int, frame: FrameType | None) -> None:
    """For :func:`told_of`: end the work as Ctrl-C does."""
    raise KeyboardInterrupt


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
