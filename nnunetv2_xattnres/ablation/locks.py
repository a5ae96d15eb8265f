"""One lock a cell, held by whoever works on it and by the commands that it started.

The operating system drops such a lock when the last of these processes is gone, however it ended: nothing is left to
clean up, and a training whose parent was killed still guards its cell.
"""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from time import monotonic, sleep

from nnunetv2_xattnres.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_RETRY_SECONDS = 0.1


class Lock:
    """A lock on a file.

    Args:
        path: The lock's file; it is made by whoever takes the lock, and stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Take the lock; ``False`` where somebody else still holds it after ``seconds``.

        On a file system without locks this always succeeds: there, two starts at the same moment are not kept apart.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        end = monotonic() + seconds
        try:
            while not _flock(descriptor, exclusive=True):
                if monotonic() >= end:
                    os.close(descriptor)
                    return False
                sleep(_RETRY_SECONDS)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        """Give this process's hold up; commands that were given the descriptor keep theirs."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None

    def held(self) -> bool:
        """Whether anybody holds the lock now. Needs to read the file only, and two who look do not see each other."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _flock(descriptor, exclusive=False)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Lock:
        self.acquire(math.inf)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _flock(descriptor: int, exclusive: bool) -> bool:
    """Lock an open file at once; ``False`` where another lock is in the way."""
    if fcntl is None:
        raise InputError("ablate needs the file locks of Linux or macOS: on Windows, run it in WSL")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True
