"""Output files of commands: checked before the work starts, and written completely or not at all."""

import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from nnunetv2_xattnres.errors import InputError

RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0)


def check_outputs(
    paths: Sequence[Path | None], *, overwrite: bool, advice: str = "", inputs: Sequence[Path | None] = ()
) -> None:
    """Check that every file can be written; ``None`` is a file that was not requested.

    Args:
        paths: The files to write.
        overwrite: Whether they may exist.
        advice: What else the user can do about a file that exists.
        inputs: Files that the command reads.

    Raises:
        InputError: a file cannot be written, is read by the command, or exists and ``overwrite`` is False; the message
            lists all of them.
    """
    read = [path for path in inputs if path and path.exists()]
    wanted = [path for path in paths if path]
    problems = [f"{path} is named twice" for path in sorted({path for path in wanted if wanted.count(path) > 1})]
    for path in dict.fromkeys(wanted):
        folder = path.absolute().parent
        if path.is_dir():
            problems.append(f"{path} is a folder")
        elif path.exists() and not path.is_file():
            problems.append(f"{path} is a device or a pipe, and no file")
        elif path.exists() and any(path.samefile(each) for each in read):
            problems.append(f"{path} is a file that this command reads: name another one")
        elif not folder.is_dir():
            problems.append(f"{path}: its folder does not exist")
        elif not os.access(folder, os.W_OK | os.X_OK):
            problems.append(f"{path}: you may not write to its folder")
        elif path.exists() and not overwrite:
            problems.append(f"{path} exists already: --overwrite replaces it{advice}")
    if problems:
        raise InputError("The results cannot be written there.", problems)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` with the same ending; without an error, the file is renamed to ``path``.

    If ``path`` is a link, the file that it names is written.

    Raises:
        InputError: the system refuses to write, or the disk is full. No file is left then.
    """
    # unique also for threads, and for machines that share the folder
    target = path.resolve()
    partial = target.with_name(f".{secrets.token_hex(8)}.{target.name}")
    try:
        yield partial
        replace_file(partial, target)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def check_output_folder(output: Path, names: Collection[str], *, overwrite: bool) -> None:
    """Check that a command may replace the folder ``output``; ``names`` are those of its own files and folders.

    Raises:
        InputError: it is a file, it holds other files, it cannot be replaced, or it has results and ``overwrite`` is
            False.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: name a folder with -o.")
    mounted = os.path.ismount(output)
    if mounted or (output.is_dir() and Path.cwd().is_relative_to(output.resolve())):
        what = "a mounted folder" if mounted else "the folder that you are in"
        raise InputError(f"{output} is {what}, which cannot be replaced: name a new folder in it with -o.")
    present = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if others := sorted(present - set(names)):
        raise InputError(f"{output} holds files of something else: name an empty or a new folder with -o.", others)
    if present and not overwrite:
        raise InputError(f"{output} has results already: --overwrite replaces them, or name another folder with -o.")


@contextmanager
def replaced_folder(output: Path) -> Iterator[Path]:
    """A new folder beside ``output`` to write to. It takes the place of ``output`` once everything has worked.

    If ``output`` is a link, the folder that it names is replaced.

    Raises:
        InputError: the system refuses to write, or the disk is full. ``output`` is then as before.
    """
    output = output.resolve()
    new, former = (output.with_name(f".{output.name}.{os.getpid()}.{word}") for word in ("new", "former"))
    try:
        new.mkdir(parents=True)
        yield new
        take_place(new, output, former)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def take_place(new: Path, output: Path, former: Path) -> None:
    """Rename the folder ``new`` to ``output``, and ``output`` to ``former`` before, where it exists.

    Raises:
        OSError: the system refuses. ``output`` is then as before.
    """
    if output.exists():
        output.rename(former)
    try:
        new.rename(output)
    except OSError:
        if former.exists():
            former.rename(output)
        raise


def replace_file(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, which may exist.

    Windows refuses this while another program, such as a virus scanner, reads the target. Therefore this function
    tries for about two seconds.

    Raises:
        OSError: the system still refuses.
    """
    for seconds in RETRY_SECONDS:
        try:
            source.replace(target)
            return
        except PermissionError:
            sleep(seconds)
    source.replace(target)
