"""Writes a converted data set to its folder, completely or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import FOLDERS, PREPROCESSED, RAW
from nnunetv2_xattnres.system import expanded

FORMER = ".former."
LOCK = ".nnunetv2_xattnres.lock"


def raw_folder(raw: str | Path | None = None) -> Path:
    """``raw``, or the folder in the environment variable ``nnUNet_raw``.

    Raises:
        InputError: neither is given, or it is a file.
    """
    value = raw or os.environ.get(RAW)
    if not value:
        raise InputError(
            "nnUNet_raw is not set, so there is nowhere to write: type\n"
            '  export nnUNet_raw="$HOME/nnUNet/raw"\n'
            "with a folder of yours, once in this terminal, and again the command that you just typed"
        )
    folder = expanded(value)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"nnUNet_raw is {folder}, which is a file: let it name a folder")
    return folder


def target_problems(raw: Path, folder_name: str, overwrite: bool) -> list[str]:
    """The reasons why ``raw/folder_name`` cannot be written: it exists, or another data set has its number.

    All three folders of nnU-Net are searched, because nnU-Net stops if a number has two names in them.
    """
    prefix = folder_name.split("_")[0] + "_"
    folders = {raw, *(Path(os.environ[name]) for name in FOLDERS if os.environ.get(name))}
    found = sorted(path for folder in folders if folder.is_dir() for path in folder.glob(f"{prefix}*"))
    problems = [
        f"{path}: the number {prefix[7:-1]} belongs to another data set; choose a free one with --dataset-id"
        for path in found
        if path.name != folder_name
    ]
    target = raw / folder_name
    if target.exists() and not overwrite:
        problems.append(f"{target}: exists already; --overwrite replaces it, --dataset-id N writes beside it")
    return problems


def earlier_preprocessing(target: Path) -> list[str]:
    """A note if preprocessed data of this name exist: nnU-Net keeps them, and stops if the split differs."""
    root = os.environ.get(PREPROCESSED)
    if not root or not (Path(root) / target.name).exists():
        return []
    return [f"{Path(root) / target.name} is of an earlier conversion: delete it before you plan again"]


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new, empty, hidden folder beside ``target``; it becomes ``target`` if the block ends without an error.

    After any error, Ctrl-C included, the hidden folder is removed and an existing ``target`` stays. Before ``target``
    appears, its number is checked again, under a lock for which other conversions into the same folder wait.

    Raises:
        InputError: the disk is full, the folder cannot be written, or another conversion has written ``target`` or a
            data set with its number meanwhile (``overwrite`` allows ``target``).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to {target.parent} ({error.strerror}): let nnUNet_raw name another folder"
        ) from error
    try:
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private; a data set has normal permissions
        yield partial
        with _only_one(target.parent):
            if target.exists() and not overwrite:
                raise InputError(
                    f"{target}: was written by something else meanwhile; nothing was kept of this conversion"
                )
            problems = target_problems(target.parent, target.name, overwrite)
            if problems:
                raise InputError(
                    "The number was taken by something else meanwhile; nothing was kept of this conversion", problems
                )
            _replace(target, partial)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = " Free some space, or let nnUNet_raw name a folder on a larger disk" if full else ""
        kept = "".join(
            f" The former data set is in {former}: the next start of convert or inspect brings it back."
            for former in former_folders(target.parent, target.name)
            if not target.exists()
        )
        raise InputError(f"{target}: {error}; nothing was kept of this conversion.{kept}{advice}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def former_folders(raw: Path, name: str = "Dataset*") -> list[Path]:
    """Complete data sets that a killed ``convert --overwrite`` has left in ``raw/.NAME.former.XXX/NAME``."""
    found = raw.glob(f".{name}{FORMER}*/{name}") if raw.is_dir() else []
    return sorted(path for path in found if path.parent.name.startswith(f".{path.name}{FORMER}"))


def bring_back(raw: Path) -> list[str]:
    """Restore the data sets of :func:`former_folders`; returns a line per data set.

    If a folder of its name exists, a data set stays where it is, and its line says so.
    """
    if not former_folders(raw):
        return []
    lines = []
    with _only_one(raw):  # a conversion between its two renames finishes first
        for former in former_folders(raw):
            target = raw / former.name
            if target.exists():
                lines.append(
                    f"{former} is a former data set that was replaced: delete its folder if you do not need it"
                )
                continue
            try:
                former.rename(target)
                former.parent.rmdir()
            except OSError as error:
                lines.append(f"{former} should be {target}, and cannot be moved there ({error.strerror or error})")
            else:
                lines.append(f"{target} was brought back: a conversion that should replace it had been killed")
    return lines


def _replace(target: Path, partial: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}{FORMER}", dir=target.parent))
    former = aside / target.name
    try:
        target.rename(former)
        partial.rename(target)
    except BaseException:
        # the old one is removed only after it was replaced; if restoring fails as well, `bring_back` finds it
        if former.exists() and not target.exists():
            former.rename(target)
        if not former.exists():
            aside.rmdir()
        raise
    # under another name, so that a partly removed one is never restored
    with contextlib.suppress(OSError):
        aside = aside.rename(aside.with_name(aside.name.replace(FORMER, ".replaced.")))
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let other conversions into ``folder`` wait; without effect on a file system without locks."""
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire()
        while not path.exists():  # its last holder removed the file while this process waited
            lock.release()
            lock.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS, errno.EACCES):
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # Windows does not remove an open file; `filelock` does it there
                path.unlink()
            lock.release()


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
