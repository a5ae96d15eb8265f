"""Digests of everything that must not change within a study: plans, split, labels, images and test set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.ablation.commands import test_set, validation_labels
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import read_object
from nnunetv2_xattnres.plans.files import resolve
from nnunetv2_xattnres.plans.splits import read_splits

CHUNK = 1 << 20  # bytes at a time


def digests(plans: dict[str, Any], configurations: Iterable[str]) -> dict[str, str]:
    """Configuration name to the digest of all its entries, also inherited ones; names not in the plans are left out."""
    return {
        name: _digest(resolve(plans, name)) for name in dict.fromkeys(configurations) if name in plans["configurations"]
    }


def data_digests(study: Study, plans: dict[str, Any], configurations: Iterable[str]) -> dict[str, str]:
    """Digests of the data that the cells share; data that do not exist are left out.

    For JSON files and masks, the content counts. For images, names and sizes count, because a data set can have
    hundreds of gigabytes, and different compressed images rarely have the same size.

    Args:
        study: The study, whose cells name the folds.
        plans: Content of its plans file.
        configurations: Configurations of its cells.
    """
    preprocessed = Path(study.dataset_json).parent
    # names and the list of configurations do not affect a training
    general = {key: value for key, value in plans.items() if key not in ("configurations", "plans_name", "xattnres")}
    found = {"plans outside of the configurations": _digest(general)}
    if (description := read_object(Path(study.dataset_json))) is not None:
        found["dataset.json"] = _digest(description)
    folds = read_splits(preprocessed) or []
    for number in dict.fromkeys(cell.fold for cell in study.cells):
        if isinstance(number, int) and number < len(folds):
            cases = [sorted(folds[number][key]) for key in ("train", "val")]
            found[f"fold {number} of splits_final.json"] = _digest(cases)
    for name in configurations:
        if name in plans["configurations"]:
            identifier = resolve(plans, name)["data_identifier"]
            found.setdefault(f"preprocessed cases in {identifier}", _sizes(preprocessed / identifier))
    found["reference masks in gt_segmentations"] = _contents(validation_labels(study))
    test = test_set(study)
    found["test images (imagesTs)"] = _sizes(test[0]) if test else "none"
    found["test masks (labelsTs)"] = _contents(test[1]) if test else "none"
    return found


def check_unchanged(study: Study, plans: dict[str, Any], configurations: Iterable[str]) -> None:
    """Stop if shared data have changed since the study was planned.

    Data without a digest pass: studies of earlier versions lack some.

    Raises:
        InputError: something has changed; the message has one line per change.
    """
    known = {name: study.digests[name] for name in configurations if name in study.digests}
    now = digests(plans, known)
    problems = [
        f"configuration {name} is {'different' if name in now else 'missing'}"
        for name, digest in known.items()
        if now.get(name) != digest
    ]
    if study.data:
        data = data_digests(study, plans, (cell.configuration for cell in study.cells))
        problems += [_changed(name, digest, data.get(name)) for name, digest in study.data.items()]
    problems = [problem for problem in problems if problem]
    if problems:
        raise InputError(
            f"{study.dataset} or {study.plans} changed after the study in {study.folder} was planned, and its cells "
            "would not be comparable: give another folder with --output, or put the plans and the data back as they "
            "were",
            problems,
        )


def _changed(name: str, then: str, now: str | None) -> str:
    if now == then:
        return ""
    if now in (None, "none"):
        return f"{name}: missing"
    return f"{name}: {'new' if then == 'none' else 'different'}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _sizes(folder: Path) -> str:
    """Digest of names and sizes, without ``.npy`` files, which nnU-Net unpacks from ``.npz`` when it trains."""
    if not folder.is_dir():
        return "none"
    with os.scandir(folder) as entries:
        return _digest(
            sorted((file.name, file.stat().st_size) for file in entries if not file.name.endswith((".npy", ".tmp")))
        )


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "none"
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        whole.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                whole.update(chunk)
    return whole.hexdigest()[:16]
