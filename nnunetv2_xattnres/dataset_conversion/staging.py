"""Where a converted data set goes, and how it gets there whole or not at all."""

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

FORMER = ".former."
LOCK = ".nnunetv2_xattnres.lock"


def raw_folder(raw: str | Path | None = None) -> Path:
    """``raw``, or the folder that the environment variable ``nnUNet_raw`` names.

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
    folder = Path(value).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"nnUNet_raw is {folder}, which is a file: let it name a folder")
    return folder


def target_problems(raw: Path, folder_name: str, overwrite: bool) -> list[str]:
    """Why the folder ``raw/folder_name`` cannot be written: it exists, or its number is another data set's.

    nnU-Net looks a number up in all three of its folders and stops where it finds two names for it, so all three
    are searched.
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
    """A note where nnU-Net holds preprocessed data of this name: it keeps them, and stops on another split."""
    root = os.environ.get(PREPROCESSED)
    if not root or not (Path(root) / target.name).exists():
        return []
    return [f"{Path(root) / target.name} is of an earlier conversion: delete it before you plan again"]


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new, empty, hidden folder beside ``target``; it becomes ``target`` if the block ends without an error.

    On any error, Ctrl-C included, the folder is removed and a former ``target`` stays as it was. Whether the number is
    free is looked at again when ``target`` appears, and conversions into one folder do this one after another.

    Raises:
        InputError: the disk is full, the folder cannot be written, or ``target`` or another data set of its number is
            there now (``overwrite`` allows ``target``): another conversion may have written it meanwhile.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to {target.parent} ({error.strerror}): let nnUNet_raw name another folder"
        ) from error
    try:
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private; a data set has the permissions of any folder
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
    """Whole data sets that a killed ``convert --overwrite`` moved aside: ``raw/.NAME.former.XXX/NAME``."""
    found = raw.glob(f".{name}{FORMER}*/{name}") if raw.is_dir() else []
    return sorted(path for path in found if path.parent.name.startswith(f".{path.name}{FORMER}"))


def bring_back(raw: Path) -> list[str]:
    """Move data sets that a killed ``convert --overwrite`` left aside back to their place; a line for each of them.

    One whose place is taken stays where it is, and its line says so.
    """
    if not former_folders(raw):
        return []
    lines = []
    with _only_one(raw):  # a conversion that is between its two renames finishes first
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
        # the former one is removed only where it was replaced; if the way back fails too, `bring_back` finds it
        if former.exists() and not target.exists():
            former.rename(target)
        if not former.exists():
            aside.rmdir()
        raise
    # under another name, so that a half removed one is never brought back
    with contextlib.suppress(OSError):
        aside = aside.rename(aside.with_name(aside.name.replace(FORMER, ".replaced.")))
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep other conversions into ``folder`` waiting; without effect on a file system that has no locks."""
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire()
        while not path.exists():  # its last holder removed it while this process waited
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
            with contextlib.suppress(OSError):  # Windows keeps an open file, and `filelock` removes it there
                path.unlink()
            lock.release()


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
