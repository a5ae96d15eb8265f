"""Helpers for this machine: CPU cores, installed versions, the console, home folders and temporary signal handlers."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from nnunetv2_xattnres.errors import InputError

# of Linux's control groups, versions 2 and 1
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_cores() -> int:
    """Number of cores that this process may use; on a shared machine or a cluster, these are not all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The memory of this machine, or of the container that this process runs in; ``None`` where it is unknown."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
    for limit in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no container, or "max"
            memory = min(memory, int(limit.read_text(encoding="ascii")))
    return memory


def version_of(package: str) -> str | None:
    """The installed version of a package, ``None`` if it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def escape_what_the_console_lacks() -> None:
    """Make standard output print characters that its encoding lacks as escapes, such as ``\\u0394``.

    Consoles of Windows support few letters (cp1252, for example). A name with another letter would end the command with
    a traceback, after the work was done. Standard error already prints escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def outliving_its_reader() -> Iterator[None]:
    """Within the block, a command goes on if nobody reads its standard output any more, as after ``| head``.

    Its work is more than what it prints: files are still written, and the exit code is that of the work.
    """
    stream = sys.stdout
    sys.stdout = cast(TextIO, _Outliving(stream))
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            sys.stdout = stream


class _Outliving:
    """A stream that drops what is written once its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._do(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._do(self._stream.flush)

    def _do(self, function: Callable[..., Any], *arguments: str) -> None:
        try:
            function(*arguments)
        except BrokenPipeError:
            # the stream still holds text, which Python would write at the end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def expanded(path: str | Path) -> Path:
    """The path with the home folder of a user in place of ``~`` or ``~name``.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no user of that name, so no home folder: write the whole path") from error


def check_device(device: str, choice: str = "--device cpu") -> None:
    """Test that torch can compute on a device, before a command writes or waits for anything.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``, or with a number, such as ``cuda:1``.
        choice: How the caller chooses the CPU, for the message.

    Raises:
        InputError: torch cannot use the device.
    """
    import torch

    try:
        torch.zeros(1, device=device).add_(1)
    except Exception as error:  # torch raises AssertionError without CUDA, RuntimeError or its own for a broken driver
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"torch {torch.__version__} cannot compute on the device {device} ({reason}): choose {choice}, or "
            "see what `nnunetv2_xattnres doctor` says about the device"
        ) from error


def number_of(name: str) -> signal.Signals | None:
    """The signal of that name, or ``None`` if the system does not have it (Windows has few)."""
    return getattr(signal, name, None)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler for :func:`told_of` that ends the work as Ctrl-C does."""
    raise KeyboardInterrupt


@contextmanager
def told_of(names: Sequence[str], tell: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``tell`` on these signals within a block, if the system has them.

    Ignored signals stay ignored, because nohup, and shells that start a command in the background, set them so.
    """
    there = [number for name in names if (number := number_of(name)) is not None]
    heard = [number for number in there if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, tell) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable within a block."""
    former = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former
