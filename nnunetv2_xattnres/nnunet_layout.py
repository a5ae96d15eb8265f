"""All names of nnU-Net that this package uses: environment variables, folders, files, log lines, checkpoint keys.

``CONTRIBUTING.md`` lists everything else on which it relies, beyond nnU-Net's commands.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

from nnunetv2_xattnres.errors import InputError

# environment variables
RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
FOLDERS = (RAW, PREPROCESSED, RESULTS)
HOOK = "nnUNet_extTrainer"
DEFAULT_PROCESSES, AUGMENTATION_PROCESSES = "nnUNet_def_n_proc", "nnUNet_n_proc_DA"

# in a data set's folder
DATASET_JSON, SPLITS, REFERENCES = "dataset.json", "splits_final.json", "gt_segmentations"
TRAIN, TEST = "Tr", "Ts"
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = "imagesTr", "labelsTr", "imagesTs", "labelsTs"

# names of labels with a meaning of their own, in DATASET_JSON
BACKGROUND, IGNORE = "background", "ignore"

# in the folder of a trained model, beside DATASET_JSON
PLANS_JSON = "plans.json"

# in a fold's folder
FINAL, LATEST, BEST = (f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))
VALIDATION, SUMMARY, DEBUG = "validation", "summary.json", "debug.json"

# keys of a checkpoint
TRAINER_KEY, WEIGHTS_KEY, EPOCH_KEY = "trainer_name", "network_weights", "current_epoch"

_EPOCH = re.compile(r": +Epoch (\d+) *$", re.MULTILINE)
_LOSS = re.compile(r": +train_loss +(\S+)")
_DICE = re.compile(r": +Pseudo dice +\[(.*)\]")
_NUMBER = re.compile(r"(?:\(|^|, )(nan|-?[\d.]+(?:e-?\d+)?)")  # np.float32(0.5), or 0.5


def variable_folder(variable: str) -> Path:
    """The folder in one of nnU-Net's environment variables.

    Raises:
        InputError: the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise InputError(f"{variable} is not set: export it, as for every nnU-Net command")
    return Path(value)


def dataset_number(name: str) -> int:
    """The number of a data set, such as 11 for ``Dataset011_ClinicDB``."""
    return int(name[len("Dataset") :].split("_")[0])


def part_folders(dataset: Path, part: str) -> tuple[Path, Path]:
    """The folders of images and labels of a raw data set's part, ``Tr`` or ``Ts``."""
    return dataset / f"images{part}", dataset / f"labels{part}"


def fold_folder(results: Path, dataset: str, trainer: str, plans: str, configuration: str, fold: int | str) -> Path:
    """The folder with the checkpoints, logs and validation of a training."""
    return results / dataset / f"{trainer}__{plans}__{configuration}" / f"fold_{fold}"


def training_logs(folder: Path) -> list[Path]:
    """The logs of a fold's training, oldest first; a continued training has several."""
    # in their names, months and days have no leading zeros, so names do not sort by time
    return sorted(folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)


def last_epoch(logs: list[Path]) -> int | None:
    """The last epoch in the newest log, of which only the end is read."""
    if not logs:
        return None
    with logs[-1].open("rb") as file:
        file.seek(max(0, logs[-1].stat().st_size - 16384))
        epochs = _EPOCH.findall(file.read().decode("utf-8", errors="replace"))
    return int(epochs[-1]) if epochs else None


def read_epochs(logs: Iterable[Path]) -> dict[int, tuple[float, float]]:
    """Epoch to its training loss and its pseudo Dice (0 to 1, mean over classes); of two entries, the later counts.

    Epochs without one of them are left out. Values that are no numbers become NaN.
    """
    losses: dict[int, float] = {}
    scores: dict[int, float] = {}
    for log in logs:
        epoch = None
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := _EPOCH.search(line):
                epoch = int(found[1])
            elif epoch is not None and (found := _LOSS.search(line)):
                losses[epoch] = _number(found[1])
            elif epoch is not None and (found := _DICE.search(line)):
                values = [value for text in _NUMBER.findall(found[1]) if not math.isnan(value := _number(text))]
                scores[epoch] = sum(values) / len(values) if values else math.nan
    return {epoch: (losses[epoch], scores[epoch]) for epoch in sorted(losses.keys() & scores.keys())}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
