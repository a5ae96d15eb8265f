"""Scores as files: JSON (complete, read back by the reports) and CSV (one row per case and class)."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.scoring import CATALOGUE, metrics_of
from nnunetv2_xattnres.json_files import require_object
from nnunetv2_xattnres.outputs import written

_ENTRIES = {"convention": str, "unit": str, "labels": dict, "cases": list}
SCORE_AGAIN = "remove it, and `nnunetv2_xattnres ablate` scores the cell again"


def write_scores(scores: dict[str, Any], path: Path) -> None:
    """Write scores as JSON, NaN as null."""
    write_text(path, json.dumps(_replace(scores, _nan_to_none), indent=1, ensure_ascii=False) + "\n")


def read_scores(path: Path) -> dict[str, Any]:
    """Read a file of :func:`write_scores`, null as NaN.

    Raises:
        InputError: the file cannot be read, or has no scores of cases.
    """
    scores = require_object(path, SCORE_AGAIN, SCORE_AGAIN, entries=_ENTRIES)
    named = scores.get("metrics", [])
    if not isinstance(named, list) or not all(isinstance(name, str) and name in CATALOGUE for name in named):
        raise InputError(f"{path} has metrics other than {', '.join(CATALOGUE)}: {SCORE_AGAIN}")
    columns = _columns(scores)
    for number, row in enumerate(scores["cases"]):
        if not isinstance(row, dict) or not row.keys() >= set(columns):
            raise InputError(f"{path} has an entry {number} of cases without {', '.join(columns)}: {SCORE_AGAIN}")
    return _replace(scores, _none_to_nan)


def write_csv(scores: dict[str, Any], path: Path) -> None:
    """Write one row per case and class; a score that is not defined is an empty field."""
    with written(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        columns = _columns(scores)
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows({key: _nan_to_none(row[key]) for key in columns} for row in scores["cases"])


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _columns(scores: dict[str, Any]) -> tuple[str, ...]:
    return ("case", "label", *metrics_of(scores))


def _nan_to_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _none_to_nan(value: Any) -> Any:
    return float("nan") if value is None else value


def _replace(value: Any, convert: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, convert) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, convert) for item in value]
    return convert(value)
