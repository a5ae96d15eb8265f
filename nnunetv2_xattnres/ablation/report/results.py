"""Reads the folder of a study for its report: scores as arrays, finished cells, missing cells."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_xattnres.ablation.observe import Observation, observe
from nnunetv2_xattnres.ablation.report.statistics import Difference, paired_difference
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.catalogue import network_title, variant_title
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.conventions import CONVENTIONS
from nnunetv2_xattnres.evaluation.files import SCORE_AGAIN, read_scores
from nnunetv2_xattnres.evaluation.scoring import CATALOGUE, METRICS, metrics_of, rules_text
from nnunetv2_xattnres.json_files import check_entries


@dataclass
class Configuration:
    """One configuration and the scores of its complete cells.

    Attributes:
        name: Name in the plans file, such as ``2d_replace``.
        variant: Its routing, a key of the catalogue.
        network: A key of the catalogue.
        studies: The studies that compare it.
        seeds: Seeds in ``scores``.
        scores: Metric to array (seeds, cases, labels), NaN where not defined; folds of a test case are averaged.
        missing_seeds: Seeds left out, because one of their folds is not complete.
        partial: True if no seed has all folds; ``scores`` then holds the folds that exist.
    """

    name: str
    variant: str
    network: str
    studies: tuple[str, ...]
    seeds: list[int] = field(default_factory=list)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    missing_seeds: list[int] = field(default_factory=list)
    partial: bool = False

    @property
    def title(self) -> str:
        """The title, such as ``U-Net (no skip)``."""
        return f"{network_title(self.network)} ({variant_title(self.variant)})"


@dataclass
class Results:
    """All data of a report.

    Attributes:
        study: The study.
        observations: Its cells and their present states.
        configurations: Its configurations with their scores.
        cases: Names of the scored cases.
        labels: Name of each scored label to its value or values.
        convention: How predictions were scored.
        unit: Unit of distances.
        rows: Name of each complete cell to the rows of its ``scores.json``.
        metrics: The metrics in the scores.
        rules: Further rules of the scores in words: tolerances of NSD, classes that one side misses.
    """

    study: Study
    observations: list[Observation]
    configurations: list[Configuration]
    cases: list[str]
    labels: dict[str, Any]
    convention: str
    unit: str
    rows: dict[str, list[dict[str, Any]]]
    metrics: tuple[str, ...] = METRICS
    rules: list[str] = field(default_factory=list)
    _differences: dict[tuple[str, str, str, int | None], Difference] = field(default_factory=dict)

    @property
    def complete(self) -> list[Observation]:
        """The cells that have scores."""
        return [item for item in self.observations if item.state == State.COMPLETE]

    def compare(
        self, base: Configuration, item: Configuration, metric: str = "dice", label: int | None = None
    ) -> Difference:
        """Compare ``item`` with ``base``, over all labels or one; computed once, because the bootstrap is slow."""
        key = (base.name, item.name, metric, label)
        if key not in self._differences:
            column = slice(None) if label is None else slice(label, label + 1)
            before, after = (scores[metric][:, :, column] for scores in (base.scores, item.scores))
            self._differences[key] = paired_difference(before, after, not CATALOGUE[metric].distance)
        return self._differences[key]

    def find(self, network: str, variant: str) -> Configuration | None:
        """The configuration of a network and a variant, or None if it has no scores."""
        for item in self.configurations:
            if (item.network, item.variant) == (network, variant) and item.seeds:
                return item
        return None

    @property
    def networks(self) -> list[str]:
        """The networks of the study, in its order."""
        return list(dict.fromkeys(item.network for item in self.configurations))


def load_results(folder: Path) -> Results:
    """Read a study's folder; raises :class:`InputError` if it is no study, or its scores are not comparable."""
    study = Study.load(folder)
    if study is None:
        raise InputError(f"{folder} holds no study.json: name the folder that `nnunetv2_xattnres ablate` wrote.")
    observations = observe(study)
    found: dict[str, dict[str, Any]] = {}
    for item in observations:
        if item.state == State.COMPLETE:
            path = study.scores_file(item.cell)
            found[item.cell.name] = read_scores(path)
            _check_scores(found[item.cell.name], path)
    for name, scores in found.items():
        if lacking := [metric for metric in METRICS if metric not in metrics_of(scores)]:
            raise InputError(f"The scores of {name} in {folder} have no {', '.join(lacking)}: {SCORE_AGAIN}")
    for key in ("convention", "unit", "labels", "metrics", "tolerance", "missing"):
        values = {str(scores.get(key, "not given")) for scores in found.values()}
        if len(values) > 1:
            raise InputError(
                f"The scores in {folder} do not go together: they differ in their {key}. Score all cells the same way.",
                sorted(values),
            )
    first: dict[str, Any] = next(iter(found.values()), {"convention": "nnunet", "unit": "mm", "labels": {}})
    cases = sorted({row["case"] for scores in found.values() for row in scores["cases"]})
    labels = list(first["labels"])
    configurations = []
    for name in dict.fromkeys(item.cell.configuration for item in observations):
        cells = [item for item in observations if item.cell.configuration == name]
        configurations.append(_configuration(cells, found, cases, labels, metrics_of(first)))
    rows = {name: scores["cases"] for name, scores in found.items()}
    return Results(
        study,
        observations,
        configurations,
        cases,
        first["labels"],
        first["convention"],
        first["unit"],
        rows,
        metrics_of(first),
        rules_text(first),
    )


def _check_scores(scores: dict[str, Any], path: Path) -> None:
    """Check the values in a file of scores, whose keys were checked when it was read.

    Raises:
        InputError: a score is no number, a label is not one of the file's, or a rule has no meaning here.
    """
    check_entries(scores, str(path), {}, SCORE_AGAIN, optional={"tolerance": dict, "missing": str})
    numbers = dict.fromkeys(metrics_of(scores), float)
    for number, row in enumerate(scores["cases"]):
        where = f"{path}, entry {number} of cases,"
        check_entries(row, where, {"case": str, "label": str, **numbers}, SCORE_AGAIN)
        if row["label"] not in scores["labels"]:
            raise InputError(f"{where} has the label {row['label']}, which its labels do not name: {SCORE_AGAIN}")
    if scores["convention"] not in CONVENTIONS:
        raise InputError(f"{path} has the convention {scores['convention']}: {SCORE_AGAIN}")
    tolerance = scores.get("tolerance") or {}
    check_entries(tolerance, f"{path}, tolerance,", dict.fromkeys(tolerance, float), SCORE_AGAIN)


def _configuration(
    cells: Sequence[Observation],
    found: dict[str, dict[str, Any]],
    cases: list[str],
    labels: list[str],
    metrics: tuple[str, ...],
) -> Configuration:
    first = cells[0].cell
    by_seed: dict[int, list[Observation]] = {}
    for item in cells:
        by_seed.setdefault(item.cell.seed, []).append(item)
    whole = [seed for seed, items in by_seed.items() if all(item.cell.name in found for item in items)]
    some = [seed for seed, items in by_seed.items() if any(item.cell.name in found for item in items)]
    seeds = whole or some
    arrays = {metric: np.full((len(seeds), len(cases), len(labels)), np.nan) for metric in metrics}
    for index, seed in enumerate(seeds):
        tables = [found[item.cell.name] for item in by_seed[seed] if item.cell.name in found]
        for metric in metrics:
            arrays[metric][index] = _average([_table(scores, metric, cases, labels) for scores in tables])
    return Configuration(
        first.configuration,
        first.variant,
        first.network,
        first.study,
        seeds,
        arrays,
        [seed for seed in by_seed if seed not in seeds],
        bool(seeds) and not whole,
    )


def _table(scores: dict[str, Any], metric: str, cases: list[str], labels: list[str]) -> np.ndarray:
    row_of, column_of = ({name: index for index, name in enumerate(names)} for names in (cases, labels))
    values = np.full((len(cases), len(labels)), np.nan)
    for row in scores["cases"]:
        values[row_of[row["case"]], column_of[row["label"]]] = row[metric]
    return values


def _average(tables: list[np.ndarray]) -> np.ndarray:
    """Mean over folds per case: a test case has one score per fold, a validation case has a single score."""
    stacked = np.stack(tables)
    counts = (~np.isnan(stacked)).sum(axis=0)
    return np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)
