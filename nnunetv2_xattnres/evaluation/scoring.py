"""What is scored: the metrics, the tolerance of NSD, and the rule for a class that only one side has."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nnunetv2_xattnres.errors import InputError


class Metric(NamedTuple):
    """How a metric is shown: its title, the factor for tables, and whether it is a distance (lower is better)."""

    title: str
    scale: float
    distance: bool = False

    def heading(self, unit: str) -> str:
        """``Dice %`` or ``HD95 mm``."""
        return f"{self.title} {unit if self.distance else '%'}"


CATALOGUE = {
    "dice": Metric("Dice", 100.0),
    "iou": Metric("IoU", 100.0),
    "hd95": Metric("HD95", 1.0, distance=True),
    "nsd": Metric("NSD", 100.0),
}
METRICS = ("dice", "iou", "hd95")  # computed by default; NSD needs a tolerance
MISSING_RULES = ("undefined", "worst")
_UNITS = {"mm": "mm", "px": "voxel", "voxel": "voxel"}
_SUFFIX = {"mm": "mm", "voxel": "px"}
_TOLERANCE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(mm|px|voxel)?")


class Tolerance(NamedTuple):
    """A tolerance of NSD; ``label`` is None if it is for every class without its own, ``unit`` if it has no suffix."""

    text: str
    label: str | None
    value: float
    unit: str | None


def check_options(
    metrics: Sequence[str], tolerance: Sequence[str], missing: str, convention: str
) -> tuple[tuple[str, ...], list[Tolerance]]:
    """The metrics in the catalogue's order, and the tolerances; checks what needs no image.

    Raises:
        InputError: a name is unknown, a tolerance is missing, without use or not readable, or the rule for missing
            classes does not go with the convention.
    """
    unknown = [name for name in metrics if name not in CATALOGUE]
    if unknown or not metrics:
        raise InputError(f"There is no metric {', '.join(unknown) or 'named'}: choose from {', '.join(CATALOGUE)}.")
    if missing not in MISSING_RULES:
        raise InputError(f'There is no rule "{missing}" for missing classes: it is one of {", ".join(MISSING_RULES)}.')
    if missing == "worst" and convention == "transunet":
        raise InputError(
            "The rule worst for missing classes contradicts the convention transunet, which has its own scores for "
            "them: leave out --missing worst, or use --convention nnunet."
        )
    if "nsd" in metrics and not tolerance:
        raise InputError(
            "NSD has no tolerance: give the distance that counts as agreement, as in --tolerance 2mm (2px where "
            "distances are in pixels or voxels)."
        )
    if tolerance and "nsd" not in metrics:
        raise InputError("A tolerance is for NSD only: add nsd to --metric, or leave out --tolerance.")
    return tuple(name for name in CATALOGUE if name in metrics), [_parse(text) for text in tolerance]


def _parse(text: str) -> Tolerance:
    name, equals, amount = text.rpartition("=")
    match = _TOLERANCE.fullmatch(amount.strip())
    if match is None or (equals and not name):
        raise InputError(f'The tolerance "{text}" cannot be read: write 2mm, 2px or 2, and CLASS=3mm for one class.')
    return Tolerance(text, name if equals else None, float(match[1]), _UNITS[match[2]] if match[2] else None)


def class_tolerances(tolerances: Sequence[Tolerance], unit: str, labels: Sequence[str]) -> dict[str, float]:
    """The tolerance of each class, in ``unit`` ("mm" or "voxel"); empty without any tolerance.

    Raises:
        InputError: a unit is not that of the distances, a class is unknown or named twice, or a class has no tolerance.
    """
    if not tolerances:
        return {}
    problems = [
        f"{item.text}: distances are in {_in_words(unit)} here, write {item.value:.12g}{_SUFFIX[unit]} if that is meant"
        for item in tolerances
        if item.unit not in (None, unit)
    ]
    problems += [
        f"{item.text}: there is no class {item.label}, the classes are {', '.join(labels)}"
        for item in tolerances
        if item.label is not None and item.label not in labels
    ]
    values: dict[str | None, float] = {}
    for item in tolerances:
        if item.label in values:
            problems.append(f"{item.text}: a second tolerance for {item.label or 'all classes'}")
        values[item.label] = item.value
    if lacking := [label for label in labels if label not in values and None not in values]:
        problems.append(f"no tolerance for {', '.join(lacking)}: add one without a name for all other classes")
    if problems:
        raise InputError("The tolerance of NSD does not fit the data.", problems)
    return {label: values.get(label, values.get(None, math.nan)) for label in labels}


def canonical(tolerances: Sequence[Tolerance], unit: str) -> list[str]:
    """The tolerances with their unit, written the same way for the same values, for a study's file."""
    return [
        f"{'' if item.label is None else item.label + '='}{item.value:.12g}{_SUFFIX[unit]}"
        for item in sorted(tolerances, key=lambda item: (item.label is not None, item.label or ""))
    ]


def metrics_of(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics in scores; files name them only if they are not the default."""
    return tuple(scores.get("metrics", METRICS))


def rules_text(scores: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores must know besides the convention: the tolerances, the rule for missing classes."""
    lines = []
    if tolerance := scores.get("tolerance"):
        amounts: dict[float, list[str]] = {}
        for label, value in tolerance.items():
            amounts.setdefault(value, []).append(label)
        texts = [
            f"{value:g} {scores['unit']}" + (f" ({', '.join(names)})" if len(amounts) > 1 else "")
            for value, names in amounts.items()
        ]
        lines.append(f"NSD at a tolerance of {', '.join(texts)}")
    if scores.get("missing") == "worst" and "hd95" in metrics_of(scores):
        lines.append("a class that only one side has gets the worst scores: HD95 is the image's diagonal")
    return lines


def _in_words(unit: str) -> str:
    return "mm" if unit == "mm" else "pixels or voxels"
