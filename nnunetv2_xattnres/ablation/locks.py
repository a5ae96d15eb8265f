"""One lock per cell. The process that works on the cell holds it, and so do the commands that this process started.

The operating system releases the lock when the last of these processes has ended, even if it was killed. So there is
nothing to clean up, and a training whose parent was killed still locks its cell. Without ``fcntl`` (on Windows),
commands cannot inherit a lock: there, a lock of ``filelock`` lasts as long as the process that started the cell.
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
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)  # missing on Windows, where descriptors are not inherited


class Lock:
    """A lock on a file.

    Args:
        path: The lock's file; :meth:`acquire` creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None  # commands inherit it; None where that is not possible
        self._portable: BaseFileLock | None = None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Take the lock; returns ``False`` if another process still holds it after ``seconds``.

        On a file system without locks this always succeeds, so two starts at the same moment are not kept apart there.

        Raises:
            OSError: the file cannot be created or opened.
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
        """Release the lock of this process; commands that inherited the descriptor keep it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None
        if self._portable is not None:
            self._portable.release()
        self._portable = None

    def held(self) -> bool:
        """Whether any process holds the lock now.

        With ``fcntl``, this takes a shared lock for a moment: read permission suffices, and concurrent tests do not
        disturb each other. Without it, this takes the lock itself for a moment.

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
    # not per thread: one thread may take the lock and another release it
    return FileLock(path, thread_local=False)


def _flock(descriptor: int, exclusive: bool) -> bool:
    """Lock an open file without waiting; ``False`` if another lock prevents it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True
