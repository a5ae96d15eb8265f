"""Creates or extends a study's grid from a plans file with the variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_xattnres.ablation.commands import test_set
from nnunetv2_xattnres.ablation.digests import check_unchanged, data_digests, digests
from nnunetv2_xattnres.ablation.grid import Cell, expand
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.ablation.trainer_names import check_trainer
from nnunetv2_xattnres.catalogue import TRAINER
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.labels import Labels, read_dataset_json
from nnunetv2_xattnres.evaluation.scoring import METRICS, canonical, check_options, class_tolerances
from nnunetv2_xattnres.nnunet_layout import DATASET_JSON, RAW, REFERENCES, SPLITS, variable_folder
from nnunetv2_xattnres.plans.files import VARIANT_PLANS, dataset_folder, not_preprocessed, resolve
from nnunetv2_xattnres.plans.splits import STOCK_FOLDS, Fold, check_cases, make_splits, read_splits
from nnunetv2_xattnres.plans.studies import make_variants
from nnunetv2_xattnres.untrusted import check_architecture


@dataclass(frozen=True)
class Request:
    """The options of a study: what it compares, and how.

    Args:
        dataset: Number or name of the data set.
        configuration: Configuration that the variants inherit from.
        base_plans: Plans that contain this configuration.
        plans: Plans with the variants.
        studies: Keys of :data:`~nnunetv2_xattnres.catalogue.STUDIES`, or ``all``.
        trainer: Trainer of all cells, except for networks to which the catalogue gives their own trainer.
        folds: Folds to train.
        seeds: Seeds with which each configuration is trained.
        networks: Keys of :data:`~nnunetv2_xattnres.catalogue.NETWORKS`, or ``all``; ``None``: that of the plans.
        convention: How predictions are scored, ``nnunet`` or ``transunet``.
        tolerance: Tolerances of NSD as ``evaluate`` takes them; empty: no NSD.
        missing: HD95 of a class that only one side has, ``undefined`` or ``worst``.
    """

    dataset: str
    configuration: str = "2d"
    base_plans: str = "nnUNetPlans"
    plans: str = VARIANT_PLANS
    studies: Sequence[str] = ("skip",)
    trainer: str = TRAINER
    folds: Sequence[int | str] = (0,)
    seeds: Sequence[int] = (0, 1, 2)
    networks: Sequence[str] | None = None
    convention: str = "nnunet"
    tolerance: Sequence[str] = ()
    missing: str = "undefined"


def plan_study(folder: Path, request: Request, *, dry: bool = False) -> Study:
    """Plan the cells of a request, and add them to the study in the folder.

    Variants in the plans file are used as they are, also with another encoder or input size. Missing variants are
    built, checked and written. This function creates the study's folder, and writes only the plans file and, if it is
    missing, nnU-Net's split, because cells that start together would write the split at the same time. It does not save
    the study.

    Args:
        folder: The study's folder, which may exist.
        request: What to compare.
        dry: Check everything, and write nothing.

    Raises:
        InputError: something is missing or not preprocessed; the study's folder cannot be written to; the plans file
            has variants of other plans or of another network; the split cannot be used; the study in the folder has
            other data, plans, trainer or rules for the scores, or its configurations, split, labels or images have
            changed since it was planned.
    """
    preprocessed = dataset_folder(request.dataset)
    study = Study(
        folder,
        preprocessed.name,
        str(preprocessed / DATASET_JSON),
        request.plans,
        request.base_plans,
        request.configuration,
        request.trainer,
        convention=request.convention,
        tolerance=_tolerance(preprocessed, request),
        missing=request.missing,
    )
    variable_folder(RAW)
    splits = read_splits(preprocessed)
    _check_folds(preprocessed, study, splits, request.folds)
    check_trainer(request.trainer)
    there = Study.load(folder)
    if there is None:
        _check_new(folder)
    else:
        _check_same(there, study)
    variants = make_variants(
        preprocessed.name,
        request.configuration,
        request.base_plans,
        request.plans,
        request.networks,
        request.studies,
        keep=True,
    )
    if todo := not_preprocessed(preprocessed.name, variants.plans, variants.found, request.base_plans):
        raise InputError(f"{preprocessed} lacks the data to train on: run this first", todo)
    identifiers = list(dict.fromkeys(resolve(variants.plans, name)["data_identifier"] for name in variants.found))
    numbers = [fold for fold in request.folds if isinstance(fold, int)]
    if splits is not None:
        check_cases(preprocessed, identifiers, [(number, splits[number]) for number in numbers])
    cells = {cell.name: cell for cell in (there.cells if there else [])}
    for cell in expand(variants.found, request.trainer, request.folds, request.seeds):
        known = cells.get(cell.name)
        cells[cell.name] = _joined(known, cell) if known else cell
    study.cells = sorted(cells.values(), key=lambda cell: cell.seed)
    configurations = [cell.configuration for cell in study.cells]
    if there is not None:
        check_unchanged(there, variants.plans, configurations)
    if not dry:
        for name in variants.found:  # nnU-Net's own trainer takes them as they are; imports torch, so only now
            check_architecture(resolve(variants.plans, name)["architecture"], f"{request.plans}, {name}")
        study.make_folder()
        variants.write()
        if splits is None and numbers:
            make_splits(preprocessed, identifiers[0])
    study.digests = digests(variants.plans, configurations)
    study.data = data_digests(study, variants.plans, configurations)
    return study


def _tolerance(preprocessed: Path, request: Request) -> list[str]:
    """The tolerances of NSD in one spelling; refuses before the training what ``evaluate`` would refuse after it."""
    metrics = (*METRICS, "nsd") if request.tolerance else METRICS
    _, tolerances = check_options(metrics, request.tolerance, request.missing, request.convention)
    if not tolerances:
        return []
    from nnunetv2_xattnres.evaluation.scores import distance_unit, find_reader  # nnU-Net's readers take seconds

    source = preprocessed / DATASET_JSON
    dataset = read_dataset_json(source)
    references = sorted((preprocessed / REFERENCES).glob(f"*{dataset['file_ending']}"))
    reader = find_reader(dataset, references[0] if references else preprocessed / dataset["file_ending"])
    unit = distance_unit(reader, request.convention)
    class_tolerances(tolerances, unit, list(Labels.parse(dataset, str(source)).foreground))
    return canonical(tolerances, unit)


def _joined(known: Cell, new: Cell) -> Cell:
    studies = tuple(dict.fromkeys((*known.study, *new.study)))
    return replace(known, study=studies)


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not a study: give an empty or new folder with --output")


def _check_same(there: Study, asked: Study) -> None:
    names = ("dataset", "plans", "base_plans", "configuration", "trainer", "convention", "tolerance", "missing")
    problems = [
        f"{name.replace('_', ' ')}: it has {_in_words(there, name)}, and {_in_words(asked, name)} is requested"
        for name in names
        if getattr(there, name) != getattr(asked, name)
    ]
    if problems:
        raise InputError(f"{there.folder} holds another study: give another folder with --output", problems)


def _in_words(study: Study, name: str) -> str:
    value = getattr(study, name)
    return (" ".join(value) or "none") if isinstance(value, list) else str(value)


def _check_folds(preprocessed: Path, study: Study, splits: list[Fold] | None, folds: Sequence[int | str]) -> None:
    """Refuse folds that nnU-Net would train on a random split, and ``all`` without a test set."""
    count = STOCK_FOLDS if splits is None else len(splits)
    beyond = [str(fold) for fold in folds if isinstance(fold, int) and fold >= count]
    if beyond:
        raise InputError(
            f"--folds {','.join(beyond)}: the data set has {count} fold(s), 0 to {count - 1} ({preprocessed / SPLITS})"
        )
    if "all" in folds and test_set(study) is None:
        raise InputError(
            f"--folds all trains on every case, and {study.dataset} has no imagesTs with labelsTs in nnUNet_raw: the "
            "scores would be those of training cases. Give folds by their numbers, or add a test set"
        )
