"""One lock a cell, held by whoever works on it and by the commands that it started.

The operating system drops such a lock when the last of these processes is gone, however it ended: nothing is left to
clean up, and a training whose parent was killed still guards its cell.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nnunetv2_xattnres.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Lock:
    """A lock on a file, taken at once or not at all.

    Args:
        path: The lock's file; it is made where it does not exist, and stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock; ``False`` where somebody else holds it.

        On a file system without locks this always succeeds: there, two starts at the same moment are not kept apart.
        """
        if fcntl is None:
            raise InputError("ablate needs the file locks of Linux or macOS: on Windows, run it in WSL")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        """Give this process's hold up; commands that were given the descriptor keep theirs."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None

    def held(self) -> bool:
        """Whether anybody holds the lock now."""
        if not self.path.exists():
            return False
        probe = Lock(self.path)
        free = probe.acquire()
        probe.release()
        return not free

    def __enter__(self) -> Lock:
        self.acquire(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
