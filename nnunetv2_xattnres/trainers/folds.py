"""Which folds a data set has, and a refusal of the others."""

from __future__ import annotations

import json
from pathlib import Path

from nnunetv2_xattnres.errors import InputError

DEFAULT_FOLDS = 5  # nnU-Net makes a cross-validation of five where no split file exists


def check_fold(fold: int | str, splits_file: Path) -> None:
    """Refuse a fold that the split does not have; nnU-Net would train it on a random split, and only log that.

    Args:
        fold: Number of the fold; ``all`` always exists.
        splits_file: ``splits_final.json`` in the preprocessed data set. Where it is missing, nnU-Net makes five folds.

    Raises:
        InputError: the fold does not exist, or the file is not a list of folds with cases in them.
    """
    if fold == "all":
        return
    count, where = DEFAULT_FOLDS, f"{splits_file}, which nnU-Net is about to make,"
    if splits_file.is_file():
        count, where = _count_folds(splits_file), str(splits_file)
    if not isinstance(fold, int) or not 0 <= fold < count:
        there = "fold 0 only" if count == 1 else f"folds 0 to {count - 1}"
        numbers = " ".join(map(str, range(count)))
        raise InputError(
            f"Fold {fold} does not exist: {where} has {there}. nnU-Net would train on a random split instead. "
            f"Choose one of these folds (for nnUNetv2_find_best_configuration and nnUNetv2_predict: -f {numbers}), "
            "or add the fold to the file"
        )


def _count_folds(splits_file: Path) -> int:
    advice = "Write it again, or delete it: nnU-Net then makes five folds"
    try:
        splits = json.loads(splits_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{splits_file} cannot be read as JSON ({error}). {advice}") from error
    if not isinstance(splits, list) or not splits:
        raise InputError(f'{splits_file} is not a list of folds, each {{"train": [cases], "val": [cases]}}. {advice}')
    problems = [
        f"fold {number} has no list of cases under {part!r}"
        for number, split in enumerate(splits)
        for part in ("train", "val")
        if not _has_cases(split, part)
    ]
    if problems:
        raise InputError(f"{splits_file} cannot be used. {advice}", problems)
    return len(splits)


def _has_cases(split: object, part: str) -> bool:
    cases = split.get(part) if isinstance(split, dict) else None
    return isinstance(cases, list) and bool(cases) and all(isinstance(case, str) for case in cases)
