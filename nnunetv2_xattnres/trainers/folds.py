"""Refuses folds that a data set does not have."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import SPLITS
from nnunetv2_xattnres.plans.splits import STOCK_FOLDS, read_splits


def check_fold(fold: int | str, preprocessed: Path) -> None:
    """Refuse a fold that is not in the split file; nnU-Net would train it on a random split and only log this.

    Args:
        fold: Number of the fold; ``all`` always exists.
        preprocessed: The data set's folder. Without ``splits_final.json``, nnU-Net makes five folds.

    Raises:
        InputError: the fold does not exist, or the file is not a list of non-empty folds.
    """
    if fold == "all":
        return
    splits, where = read_splits(preprocessed), str(preprocessed / SPLITS)
    count = STOCK_FOLDS if splits is None else len(splits)
    if splits is None:
        where += ", which nnU-Net is about to make,"
    if not isinstance(fold, int) or not 0 <= fold < count:
        there = "fold 0 only" if count == 1 else f"folds 0 to {count - 1}"
        numbers = " ".join(map(str, range(count)))
        raise InputError(
            f"Fold {fold} does not exist: {where} has {there}. nnU-Net would train on a random split instead. "
            f"Choose one of these folds (for nnUNetv2_find_best_configuration and nnUNetv2_predict: -f {numbers}), "
            "or add the fold to the file"
        )
