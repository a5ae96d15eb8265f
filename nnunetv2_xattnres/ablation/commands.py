"""The stock commands of a cell, as a user would type them, and their environment variables."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.scoring import METRICS
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER
from nnunetv2_xattnres.nnunet_layout import (
    BEST,
    FINAL,
    HOOK,
    LATEST,
    PREPROCESSED,
    RAW,
    REFERENCES,
    RESULTS,
    SUMMARY,
    TEST_IMAGES,
    TEST_LABELS,
    VALIDATION,
    variable_folder,
)


@dataclass(frozen=True)
class Device:
    """The device that a cell runs on.

    Args:
        gpus: Number of GPUs; 0 is the CPU, more than one uses nnU-Net's own DDP.
        visible: ``CUDA_VISIBLE_DEVICES`` for its commands; ``None`` leaves the variable alone (SLURM sets it).
    """

    gpus: int = 0
    visible: str | None = None

    @property
    def flag(self) -> str:
        """nnU-Net's ``-device``."""
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        if not self.gpus:
            return "CPU"
        return f"GPU {self.visible}" if self.visible is not None else f"{self.gpus} GPU{'s' * (self.gpus > 1)}"


def environment(study: Study, cell: Cell, device: Device) -> dict[str, str]:
    """The variables that a cell's commands need in addition to those of the shell."""
    hooks = [str(HOOK_FOLDER), *os.environ.get(HOOK, "").split(os.pathsep)]
    variables = {
        RESULTS: str(study.results(cell)),
        HOOK: os.pathsep.join(dict.fromkeys(hook for hook in hooks if hook)),
        "XATTNRES_SEED": str(cell.seed),
    }
    if device.visible is not None:
        variables["CUDA_VISIBLE_DEVICES"] = device.visible
    return variables


def executable(name: str) -> str:
    """The path of the command ``name``: beside this Python, or on the search path."""
    here = Path(sys.executable).parent
    # conda on Windows keeps commands in a separate folder; `which` adds the ending .exe there
    beside = os.pathsep.join(str(folder) for folder in (here, here / "Scripts"))
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        raise InputError(f"the command {name} is not installed: pip install nnunetv2")
    return found


def as_typed(command: list[str], variables: Mapping[str, str]) -> str:
    """The command as one shell line, variables first."""
    words = [f"{key}={shlex.quote(value)}" for key, value in variables.items()]
    return " ".join([*words, shlex.join(command)])


def usable_checkpoint(fold_folder: Path) -> Path | None:
    """The checkpoint that ``--c`` continues from, or ``None``.

    nnU-Net writes checkpoints in place. A kill can cut one off, and it would then stop every later start. Such a file
    is renamed to ``*.damaged``, and the next checkpoint is used.
    """
    for name in (FINAL, LATEST, BEST):
        checkpoint = fold_folder / name
        if checkpoint.is_file():
            if zipfile.is_zipfile(
                checkpoint
            ):  # torch's files are zip archives; their table of contents is written last
                return checkpoint
            checkpoint.replace(checkpoint.with_suffix(".damaged"))
    return None


def train_command(study: Study, cell: Cell, device: Device) -> list[str] | None:
    """The command that trains, continues, or only validates, whichever is left to do; ``None`` if nothing is left."""
    folder = study.fold_folder(cell)
    checkpoint = usable_checkpoint(folder)
    finished = checkpoint is not None and checkpoint.name == FINAL
    if finished and (folder / VALIDATION / SUMMARY).is_file():
        return None
    command = ["nnUNetv2_train", study.dataset, cell.configuration, str(cell.fold), "-tr", cell.trainer]
    command += ["-p", study.plans, "-device", device.flag]
    if device.gpus > 1:
        command += ["-num_gpus", str(device.gpus)]
    if finished:
        return [*command, "--val"]
    return [*command, "--c"] if checkpoint else command


def predict_command(study: Study, cell: Cell, device: Device, images: Path) -> list[str]:
    """The command that predicts the test images."""
    output = str(study.cell_folder(cell) / "predictions")
    command = ["nnUNetv2_predict", "-d", study.dataset, "-i", str(images), "-o", output]
    command += ["-f", str(cell.fold), "-tr", cell.trainer, "-c", cell.configuration, "-p", study.plans]
    command += ["-device", device.flag]
    # on a CPU, nnU-Net's default of three workers each would take the cores from the network
    return [*command, "-npp", "1", "-nps", "1"] if device.flag == "cpu" else command


def evaluate_command(study: Study, cell: Cell, reference: Path, part: bool) -> list[str]:
    """The command that scores the predictions; ``part`` if some reference cases were not predicted."""
    command = ["nnunetv2_xattnres", "evaluate", str(reference), str(study.cell_folder(cell) / "predictions")]
    command += ["--json", str(study.scores_file(cell)), "--convention", study.convention]
    if study.tolerance:
        command += ["--metric", *METRICS, "nsd", "--tolerance", *study.tolerance]
    if study.missing != "undefined":
        command += ["--missing", study.missing]
    command.append("--overwrite")
    return [*command, "--predicted-only"] if part else command


def test_set(study: Study) -> tuple[Path, Path] | None:
    """``imagesTs`` and ``labelsTs`` if both have files, else ``None``: then the validation cases are scored."""
    raw = Path(os.environ.get(RAW, "")) / study.dataset
    images, labels = raw / TEST_IMAGES, raw / TEST_LABELS
    if all(folder.is_dir() and any(folder.iterdir()) for folder in (images, labels)):
        return images, labels
    return None


def validation_labels(study: Study) -> Path:
    """The folder of reference masks that nnU-Net's preprocessing keeps."""
    return variable_folder(PREPROCESSED) / study.dataset / REFERENCES
