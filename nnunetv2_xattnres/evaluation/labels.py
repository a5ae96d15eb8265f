"""The classes to score, from nnU-Net's ``dataset.json``: plain labels, regions, and the ignore label."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import require_object
from nnunetv2_xattnres.nnunet_layout import BACKGROUND, DATASET_JSON, IGNORE


@dataclass(frozen=True)
class Labels:
    """The classes to score.

    Attributes:
        foreground: Name of each class and its values: one for a label, several for a region.
        known: All values that may occur in a file, background and ignore label included.
        ignore: Value whose voxels in the reference are ignored, or None.
    """

    foreground: dict[str, tuple[int, ...]]
    known: frozenset[int]
    ignore: int | None = None

    @classmethod
    def parse(cls, dataset: dict[str, Any], source: str = "dataset.json") -> "Labels":
        """Read the entry ``labels`` of a ``dataset.json``; raises :class:`InputError` if it is not nnU-Net's."""
        entries = dataset.get("labels")
        if not isinstance(entries, dict) or not entries:
            raise InputError(f'{source} has no "labels": is it the dataset.json of an nnU-Net v2 data set?')
        values, problems = {}, []
        for name, value in entries.items():
            try:
                values[name] = tuple(int(item) for item in (value if isinstance(value, list | tuple) else [value]))
            except (TypeError, ValueError, OverflowError):
                problems.append(f'"{name}": {value!r} is neither a whole number nor a list of them')
        if problems:
            raise InputError(f"{source}: labels must be name: value, as nnU-Net v2 writes them.", problems)
        ignore = values.pop(IGNORE, None)
        known = frozenset(item for value in values.values() for item in value) | {0} | frozenset(ignore or ())
        foreground = {name: value for name, value in values.items() if value != (0,) and name != BACKGROUND}
        if not foreground:
            raise InputError(f"{source} names no class but the background: there is nothing to score.")
        return cls(foreground, known, ignore[0] if ignore else None)

    def to_json(self) -> dict[str, int | list[int]]:
        """``{name: value}`` as in ``dataset.json``."""
        return {name: value[0] if len(value) == 1 else list(value) for name, value in self.foreground.items()}


def places_of_dataset_json(reference: Path, prediction: Path) -> list[Path]:
    """Where ``dataset.json`` can be: in ``reference`` or the two folders above it, then in ``prediction``.

    nnU-Net writes a copy beside its predictions, which helps if the reference masks were moved.
    """
    # beside a link first, then beside its target
    beside = [*Path(os.path.abspath(reference)).parents[:2], *reference.resolve().parents[:2]]
    return [folder / DATASET_JSON for folder in (reference, *dict.fromkeys(beside), prediction)]


def find_dataset_json(reference: Path, prediction: Path) -> Path:
    """The first of :func:`places_of_dataset_json` where the file is; raises :class:`InputError` if there is none."""
    places = places_of_dataset_json(reference, prediction)
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        "There is no dataset.json beside or above the reference folder, nor beside the predictions: "
        "name it with --dataset-json.",
        [f"looked in {place.parent}" for place in places],
    )


def read_dataset_json(path: Path) -> dict[str, Any]:
    """The content of a ``dataset.json``; raises :class:`InputError` if it is missing or not nnU-Net's."""
    advice = "name the dataset.json of an nnU-Net v2 data set with --dataset-json"
    return require_object(path, advice, advice, entries={"labels": dict, "file_ending": str})
