"""Reads and checks ``splits_final.json`` of a preprocessed data set, or makes it as nnU-Net does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import read_json, write_json
from nnunetv2_xattnres.nnunet_layout import SPLITS

Fold = dict[str, list[str]]
STOCK_FOLDS = 5  # the number that nnU-Net makes if the file does not exist
_ADVICE = "write it again, or delete it, and nnU-Net makes 5 random folds"


def read_splits(preprocessed: Path) -> list[Fold] | None:
    """The folds, each with its ``train`` and ``val`` cases; ``None`` if there is no file.

    Raises:
        InputError: it is not a list of such folds; the message has a line per unusable fold.
    """
    path = preprocessed / SPLITS
    folds = read_json(path, _ADVICE)
    if folds is None and not path.is_file():  # the file may contain null
        return None
    if not isinstance(folds, list) or not folds:
        raise InputError(f'{path} is not a list of folds, {{"train": [names], "val": [names]}}: {_ADVICE}')
    problems = [f"fold {number} {why}" for number, fold in enumerate(folds) if (why := _problem(fold))]
    if problems:
        raise InputError(f'{path} has folds that are not {{"train": [names], "val": [names]}}: {_ADVICE}', problems)
    return folds


def _problem(fold: object) -> str:
    if not isinstance(fold, dict):
        return f"is {fold!r:.40}"
    for key in ("train", "val"):
        names = fold.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return f"has no list of names under {key}"
        if not names:
            return f"has no case under {key}"
    return ""


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


def check_cases(preprocessed: Path, identifiers: Iterable[str], folds: Iterable[tuple[int, Fold]]) -> None:
    """Check that the cases of these folds are preprocessed; nnU-Net would stop with a traceback.

    Raises:
        InputError: cases are missing; the message has a line per fold, with three of them.
    """
    names = {identifier: _cases(preprocessed / identifier) for identifier in dict.fromkeys(identifiers)}
    problems = []
    for number, fold in folds:
        for identifier, there in names.items():
            missing = sorted({*fold["train"], *fold["val"]} - there)
            if missing:
                problems.append(f"fold {number}: {len(missing)} not in {identifier}, such as {', '.join(missing[:3])}")
    if problems:
        raise InputError(f"{preprocessed / SPLITS} names cases that are not preprocessed: {_ADVICE}", problems)


def make_splits(preprocessed: Path, identifier: str) -> list[Fold]:
    """Write the folds that nnU-Net would make at its first training.

    nnU-Net writes the file in place, so that a second training that starts at the same time reads an incomplete file.

    Args:
        preprocessed: The data set's folder.
        identifier: Name of the folder with its cases, ``data_identifier`` of a configuration.

    Raises:
        InputError: the data set has fewer cases than folds, or the file cannot be written.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = sorted(_cases(preprocessed / identifier))
    if len(names) < STOCK_FOLDS:
        raise InputError(
            f"{preprocessed / identifier} has {len(names)} cases, too few for nnU-Net's {STOCK_FOLDS} folds: write "
            f"{preprocessed / SPLITS} yourself"
        )
    # nnU-Net's seed, so that a training without this command gets the same folds
    made = generate_crossval_split(names, seed=12345, n_splits=STOCK_FOLDS)
    folds = [{key: [str(name) for name in fold[key]] for key in ("train", "val")} for fold in made]
    write_json(preprocessed / SPLITS, folds)
    return folds


def make_splits_if_missing(preprocessed: Path, identifier: str) -> None:
    """Make the folds if no file exists, so that trainings that start together never read an incomplete file.

    If the data set has fewer cases than folds, nothing is made, and nnU-Net's training reports the problem.

    Args:
        preprocessed: The data set's folder.
        identifier: Name of the folder with its cases, ``data_identifier`` of a configuration.

    Raises:
        InputError: the file cannot be written.
    """
    if not (preprocessed / SPLITS).exists() and len(_cases(preprocessed / identifier)) >= STOCK_FOLDS:
        make_splits(preprocessed, identifier)


def _cases(folder: Path) -> set[str]:
    """The names of the cases that nnU-Net finds (``.b2nd``, or ``.npz`` from older versions)."""
    names = {path.stem for path in folder.iterdir() if path.suffix in (".b2nd", ".npz") and path.name[0] != "."}
    return {name for name in names if not name.endswith("_seg")}
