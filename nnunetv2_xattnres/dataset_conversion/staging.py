"""Where a converted data set goes, and how it gets there whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_xattnres.errors import InputError

RAW = "nnUNet_raw"
FOLDER_VARIABLES = (RAW, "nnUNet_preprocessed", "nnUNet_results")


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
    folders = {raw, *(Path(os.environ[name]) for name in FOLDER_VARIABLES if os.environ.get(name))}
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
    root = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112 - nnU-Net's own spelling
    if not root or not (Path(root) / target.name).exists():
        return []
    return [f"{Path(root) / target.name} is of an earlier conversion: delete it before you plan again"]


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new, empty, hidden folder beside ``target``; it becomes ``target`` if the block ends without an error.

    On any error, Ctrl-C included, the folder is removed and a former ``target`` stays as it was.

    Raises:
        InputError: the disk is full, the folder cannot be written, or ``target`` is there without ``overwrite``:
            another conversion may have written it meanwhile.
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
        if target.exists() and not overwrite:
            raise InputError(f"{target}: was written by something else meanwhile; nothing was kept of this conversion")
        _replace(target, partial)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = " Free some space, or let nnUNet_raw name a folder on a larger disk" if full else ""
        raise InputError(f"{target}: {error}; nothing was kept.{advice}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(target: Path, partial: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    former = Path(tempfile.mkdtemp(prefix=f".{target.name}.former.", dir=target.parent))
    target.rename(former / target.name)
    try:
        partial.rename(target)
    except BaseException:
        (former / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
