"""``nnunetv2_xattnres doctor``: checks the usual problems of an nnU-Net installation, and prints what to type.

Modules that may be broken are not imported at the top: each check imports them itself, and reports failures.
"""

import argparse
import contextlib
import io
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER
from nnunetv2_xattnres.nnunet_layout import AUGMENTATION_PROCESSES, FOLDERS, HOOK, PREPROCESSED
from nnunetv2_xattnres.system import memory_bytes, version_of

DISTRIBUTION = "nnunetv2-xattnres"
TRAINER = "nnUNetTrainer_XAttnRes"
# packages whose versions must fit together; dynamic-network-architectures installs torchvision and timm
DEMANDING = (DISTRIBUTION, "nnunetv2", "dynamic-network-architectures", "timm", "torchvision", "numba")
SHOWN = ("nnunetv2", "torch", "torchvision", "timm", "dynamic-network-architectures", "numba")
SMALL_GPU_GIB = 10.0  # nnU-Net's default plans are made for 8 GB, and the desktop needs some memory, too

OK, NOTE, PROBLEM = "ok", "note", "problem"
INDENT = len(PROBLEM) + 2


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: ``ok``, ``note`` (it works, but the user should know something) or ``problem``.
        text: The result of a check.
        commands: Commands to type.
    """

    status: str
    text: str
    commands: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``doctor`` takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print every finding; returns 1 if something is broken, else 0."""
    print(f"nnunetv2_xattnres {__version__}, Python {platform.python_version()} ({sys.executable})")
    problems = 0
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Packages": check_packages,
        "Folders": check_folders,
        "Trainers": check_trainers,
        "Device": check_device,
    }
    for title, check in checks.items():
        print(f"\n{title}")
        for finding in check():
            print(render(finding), flush=True)
            problems += finding.status == PROBLEM
    print(f"\n{_count(problems)} found." if problems else "\nEverything is in place.")
    return 1 if problems else 0


def render(finding: Finding, width: int | None = None) -> str:
    """The lines of a finding; the text is wrapped, but no command, so that users can copy it."""
    width = width or min(100, shutil.get_terminal_size().columns)
    text = textwrap.fill(
        finding.text,
        width,
        initial_indent=finding.status.ljust(INDENT),
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join([text, *(f"{' ' * INDENT}type: {command}" for command in finding.commands)])


def check_packages() -> Iterator[Finding]:
    """Check that packages can be imported, and that their versions fit together by their metadata."""
    versions = ", ".join(f"{name} {version_of(name) or 'missing'}" for name in SHOWN)
    misfits = list(_misfits())
    yield from misfits
    if not misfits:
        yield Finding(OK, f"{versions}: they fit together")
    for name in ("torch", "torchvision", "nnunetv2", "numba"):
        if version_of(name) is None:
            continue  # reported above if a package needs it
        try:
            import_module(name)
        except Exception as error:  # a broken binary can raise ImportError, OSError, RuntimeError and others
            yield _import_failed(name, error)
            return
    yield Finding(OK, "torch, torchvision, nnunetv2 and numba import")


def check_folders() -> Iterator[Finding]:
    """Check the three folders that nnU-Net's commands read from the environment."""
    for name in FOLDERS:
        value = os.environ.get(name)
        suggestion, make = f'export {name}="$HOME/{name}"', f'mkdir -p "${name}"'
        if not value:
            yield Finding(PROBLEM, f"{name} is not set", (suggestion, make))
        elif value.startswith("~"):
            yield Finding(PROBLEM, f"{name} is {value}: a quoted ~ stays a ~, write $HOME", (suggestion, make))
        elif not Path(value).exists():
            yield Finding(PROBLEM, f"{name} is {value}, which does not exist", (make,))
        elif not Path(value).is_dir():
            yield Finding(PROBLEM, f"{name} is {value}, which is not a folder", (suggestion,))
        elif not os.access(value, os.W_OK | os.X_OK):
            yield Finding(
                PROBLEM, f"{name} is {value}, where you may not write", (f'chmod u+rwx "${name}"', suggestion)
            )
        else:
            free = shutil.disk_usage(value).free / 1e9
            yield Finding(OK, f"{name} is {value} ({free:.0f} GB free)")
    yield from check_patches()
    if os.environ.get(AUGMENTATION_PROCESSES) == "0":
        yield Finding(
            NOTE,
            "nnUNet_n_proc_DA is 0: training works (augmentation in the main process), planning stops with an error",
            ("unset nnUNet_n_proc_DA   # before nnUNetv2_plan_and_preprocess",),
        )


def check_patches() -> Iterator[Finding]:
    """Find planned 2D data sets whose patches see little of an image."""
    preprocessed = os.environ.get(PREPROCESSED)
    if not preprocessed or not Path(preprocessed).is_dir():
        return
    from nnunetv2_xattnres.dataset_conversion.patch_view import planned_views

    for folder in sorted(Path(preprocessed).glob("Dataset*")):
        for text, small in planned_views(folder):
            if small:
                yield Finding(NOTE, f"{folder.name}, {text}")


def check_trainers() -> Iterator[Finding]:
    """Check the hook, and that nnU-Net finds a trainer through it."""
    export = f'export {HOOK}="$(nnunetv2_xattnres trainer-path)"'
    value = os.environ.get(HOOK)
    if not value:
        text = f"{HOOK} is not set: training with {TRAINER} needs it (prediction with a finished model does not)"
        yield Finding(PROBLEM, text, (export,))
        return
    ours = [path for path in value.split(os.pathsep) if path and Path(path).resolve() == HOOK_FOLDER.resolve()]
    if not ours:
        text = f"{HOOK} is {value}, which is not the folder of this installation ({HOOK_FOLDER})"
        keep = f'export {HOOK}="${HOOK}{os.pathsep}$(nnunetv2_xattnres trainer-path)"   # keeps what it names now'
        yield Finding(PROBLEM, text, (export, keep))
        return
    yield Finding(OK, f"{HOOK} is {value}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints where it searches
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            found = recursive_find_trainer_class_by_name(TRAINER)
    except Exception as error:
        text = f"nnU-Net does not find {TRAINER}: {_one_line(error)}"
        others = [path for path in value.split(os.pathsep) if path and path not in ours]
        if others:  # nnU-Net imports every file that it finds there
            yield Finding(
                PROBLEM, f"{text}; a file in {', '.join(others)} may be what fails, so leave that out", (export,)
            )
        else:
            yield Finding(PROBLEM, text, (_reinstall(),))
        return
    yield Finding(OK, f"nnU-Net finds {found.__name__} (-tr {found.__name__})")


def check_device() -> Iterator[Finding]:
    """Check on which device a training would run, and with how much memory."""
    try:
        import torch
    except Exception:
        yield Finding(PROBLEM, "torch does not import, see above")
        return
    small = "-gpu_memory_target GB -overwrite_plans_name nnUNetPlans_small"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gib = properties.total_memory / 2**30
            if gib >= SMALL_GPU_GIB:
                yield Finding(OK, f"CUDA {index}: {properties.name}, {gib:.0f} GiB (nnU-Net's default device)")
            else:
                text = f"CUDA {index}: {properties.name}, {gib:.0f} GiB: the default plans may not fit"
                yield Finding(NOTE, text, (f"nnUNetv2_plan_and_preprocess -d N {small}",))
        return
    total = memory_bytes()
    memory = f", {total / 2**30:.0f} GiB of memory" if total else ""
    if torch.backends.mps.is_available():
        yield Finding(OK, f"MPS (Apple){memory}: add -device mps to nnUNetv2_train and nnUNetv2_predict")
        return
    yield Finding(
        NOTE,
        f"CPU only, {torch.get_num_threads()} threads{memory}: fine for trials and prediction; add -device cpu. "
        "The default plans are sized for a GPU and may need more memory than this machine has: make smaller ones",
        (f"nnUNetv2_plan_and_preprocess -d N -c 2d {small.replace('GB', '1')}",),
    )
    if shutil.which("nvidia-smi"):
        yield Finding(
            NOTE,
            f"there seems to be an NVIDIA GPU, but torch {torch.__version__} cannot use it: "
            "a torch without CUDA, or an old driver",
            ("nvidia-smi   # the driver's newest CUDA, top right; see pytorch.org for the torch that fits",),
        )


def _misfits() -> Iterator[Finding]:
    """Find requirements of a package that the installed version of another does not meet."""
    for name in DEMANDING:
        try:
            demands = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            if name == DISTRIBUTION:
                text = f"{DISTRIBUTION} is not installed in this Python, only found as a folder"
                yield Finding(PROBLEM, text, (f"{_pip()} .   # in its clone",))
            continue  # reported by the packages that need it
        for demand in map(Requirement, demands):
            if demand.marker and not demand.marker.evaluate({"extra": ""}):
                continue
            wanted, have = f"{demand.name}{demand.specifier}", version_of(demand.name)
            if have is None:
                yield Finding(PROBLEM, f"{demand.name} is missing: {name} needs it", (f'{_pip()} "{wanted}"',))
            elif not demand.specifier.contains(have, prereleases=True):
                text = f"{demand.name} {have} does not fit: {name} {version_of(name)} needs {wanted}"
                yield Finding(PROBLEM, text, (f'{_pip()} "{wanted}"',))


def _import_failed(name: str, error: Exception) -> Finding:
    text = f"{name} {version_of(name)} does not import: {_one_line(error)}"
    if name == "nnunetv2":
        return Finding(PROBLEM, text, (_reinstall(),))
    if name == "numba":
        return Finding(PROBLEM, text, (f"{_pip()} --force-reinstall numba",))
    text += ". torch and torchvision have to come from the same place (both from PyPI, or both from PyTorch's index)"
    return Finding(PROBLEM, text, (f"{_pip()} --force-reinstall torch torchvision",))


def _pip() -> str:
    """The pip command of this Python; the one on the search path often belongs to another Python."""
    return f"{sys.executable} -m pip install"


def _reinstall() -> str:
    demand = next((text for text in metadata.requires(DISTRIBUTION) or [] if text.startswith("nnunetv2")), "nnunetv2")
    return f'{_pip()} --force-reinstall --no-deps "{demand}"'


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _count(problems: int) -> str:
    return f"{problems} problem{'s' if problems > 1 else ''}"
