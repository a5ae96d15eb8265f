"""One lock per cell, held by whoever works on it and by the commands that it started.

The operating system drops such a lock when the last of these processes ends, however it ended: there is nothing to
clean up, and a training whose parent was killed still guards its cell. Systems without ``fcntl`` (Windows) have no
locks that a command can inherit: there, the lock of ``filelock`` guards a cell as long as the process that started it
lives.
"""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from time import monotonic, sleep

from filelock import BaseFileLock, FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_RETRY_SECONDS = 0.1
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)  # where it is missing, Python's descriptors are not inherited either


class Lock:
    """A lock on a file.

    Args:
        path: The lock's file; it is made by whoever takes the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None  # for commands to inherit; stays None where that is not possible
        self._portable: BaseFileLock | None = None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Take the lock; ``False`` where somebody else still holds it after ``seconds``.

        On a file system without locks this always succeeds: there, two starts at the same moment are not kept apart.

        Raises:
            OSError: the file cannot be made or opened.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = monotonic() + seconds
        while not self._try():
            if monotonic() >= end:
                return False
            sleep(_RETRY_SECONDS)
        return True

    def _try(self) -> bool:
        if fcntl is None:
            lock = _portable(self.path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            self._portable = lock
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _CLOSE_ON_EXEC, 0o644)
        taken = False
        try:
            taken = _flock(descriptor, exclusive=True)
        finally:
            if not taken:
                os.close(descriptor)
        if taken:
            self.descriptor = descriptor
        return taken

    def release(self) -> None:
        """Give this process's hold up; commands that were given the descriptor keep theirs."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None
        if self._portable is not None:
            self._portable.release()
        self._portable = None

    def held(self) -> bool:
        """Whether anybody holds the lock now.

        With ``fcntl`` this takes a shared lock for a moment: read permission suffices, and two tests at the same time
        do not disturb each other. Without it, this takes the lock itself for a moment.

        Raises:
            OSError: the file cannot be opened.
        """
        if fcntl is None:
            return self._held_portable()
        try:
            descriptor = os.open(self.path, os.O_RDONLY | _CLOSE_ON_EXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return not _flock(descriptor, exclusive=False)
        finally:
            os.close(descriptor)

    def _held_portable(self) -> bool:
        if self._portable is not None:
            return True
        if not self.path.exists():
            return False
        lock = _portable(self.path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def __enter__(self) -> Lock:
        self.acquire(math.inf)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _portable(path: Path) -> BaseFileLock:
    # not per thread: a lock may be given up by another thread than the one that took it
    return FileLock(path, thread_local=False)


def _flock(descriptor: int, exclusive: bool) -> bool:
    """Lock an open file at once; ``False`` where another lock is in the way."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True
