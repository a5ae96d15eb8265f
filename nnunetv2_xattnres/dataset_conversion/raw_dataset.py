"""A data set in nnU-Net's raw folder: its files, its splits, and what reading a case shows."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_xattnres.dataset_conversion.splits import Fold
from nnunetv2_xattnres.dataset_conversion.staging import raw_folder
from nnunetv2_xattnres.errors import InputError


@dataclass(frozen=True)
class RawCase:
    """One case: its name, ``"Tr"`` or ``"Ts"``, the files of its channels, its label file."""

    name: str
    part: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass
class Reading:
    """What reading a case showed. Sizes and spacings (mm) are in nnU-Net's order, the last axis fastest."""

    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    counts: dict[int, int] = field(default_factory=dict)
    digest: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RawDataset:
    """``nnUNet_raw/DatasetNNN_NAME`` with its ``dataset.json``."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def open(cls, dataset: str, raw: str | Path | None = None) -> "RawDataset":
        """Find a data set by its number or its full name.

        Raises:
            InputError: there is none, there are two, or its ``dataset.json`` is missing or broken.
        """
        root = raw_folder(raw)
        names = sorted(path.name for path in root.glob("Dataset*_*") if path.is_dir())
        found = [name for name in names if name == dataset or (dataset.isdigit() and int(name[7:10]) == int(dataset))]
        if len(found) != 1:
            state = f"belongs to {' and '.join(found)}" if found else "is not there"
            raise InputError(f"{root}: data set {dataset} {state}; there are: {', '.join(names) or 'none'}")
        path = root / found[0] / "dataset.json"
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            wanted = [key for key in ("channel_names", "labels", "file_ending") if key not in description]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        if wanted or "dataset" in description:
            reason = (
                f"lacks {', '.join(wanted)}" if wanted else 'lists its files under "dataset", which is not supported'
            )
            raise InputError(f"{path}: {reason}")
        return cls(root / found[0], description)

    @property
    def ending(self) -> str:
        """The ending of all its files."""
        return self.description["file_ending"]

    @cached_property
    def label_names(self) -> dict[int, str]:
        """Value to name; a region gives its name to none of its values, the ignore label keeps its own."""
        names: dict[int, str] = {}
        for name, value in self.description["labels"].items():
            for single in value if isinstance(value, list) else [value]:
                names[int(single)] = name if not isinstance(value, list) else names.get(int(single), f"value {single}")
        return dict(sorted(names.items()))

    @cached_property
    def sequences(self) -> dict[str, str]:
        """Case to sequence, from the ``cases.json`` of our converters; empty where that is not known."""
        path = self.folder / "cases.json"
        cases = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: case["sequence"] for name, case in cases.items() if case.get("sequence") is not None}

    def cases(self, part: str) -> list[RawCase]:
        """All cases of ``images{part}``, by name."""
        folder, labels = self.folder / f"images{part}", self.folder / f"labels{part}"
        files: dict[str, list[Path]] = {}
        for path in sorted(folder.glob(f"*{self.ending}")):
            match = re.fullmatch(rf"(.+)_\d{{4}}{re.escape(self.ending)}", path.name)
            if match:
                files.setdefault(match.group(1), []).append(path)
        return [
            RawCase(name, part, tuple(images), label if (label := labels / f"{name}{self.ending}").is_file() else None)
            for name, images in sorted(files.items())
        ]

    def splits(self) -> tuple[list[Fold], list[str]]:
        """The folds that nnU-Net will use, and what is wrong with the files that hold them."""
        own = self._read_splits(self.folder)
        preprocessed = os.environ.get("nnUNet_preprocessed", "")  # noqa: SIM112 - nnU-Net's own spelling
        used = self._read_splits(Path(preprocessed) / self.folder.name) if preprocessed else None
        if used is not None and own is not None and used != own:
            path = Path(preprocessed) / self.folder.name / "splits_final.json"
            return used, [
                f"{path}: differs from the one in {self.folder}, and nnU-Net uses it; delete it and plan again"
            ]
        return used or own or [], []

    def _read_splits(self, folder: Path) -> list[Fold] | None:
        path = folder / "splits_final.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error

    def read(self, case: RawCase) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
        """Image ``(channels, z, y, x)``, label ``(z, y, x)`` or None, and nnU-Net's properties, by nnU-Net's reader."""
        reader = self._reader(str(case.images[0]))
        image, properties = reader.read_images([str(path) for path in case.images])
        label = None if case.label is None else np.asarray(reader.read_seg(str(case.label))[0])[0]
        return image, label, properties

    def examine(self, case: RawCase) -> Reading:
        """Read the case and describe it."""
        reading = Reading()
        expected = len(self.description["channel_names"])
        try:
            image, label, properties = self.read(case)
        except Exception as error:  # each reader has errors of its own
            reading.problems.append(f"{case.images[0]}: case {case.name} cannot be read ({error})")
            return reading
        reading.size = tuple(image.shape[1:])
        reading.spacing = tuple(float(length) for length in properties["spacing"])
        reading.digest = hashlib.sha1(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
        if len(image) != expected:
            reading.problems.append(f"{case.images[0]}: {len(image)} channels, expected {expected}")
        if label is None:
            if case.part == "Tr":
                reading.problems.append(f"{case.images[0]}: has no label in labelsTr")
            return reading
        if label.shape != image.shape[1:]:
            reading.problems.append(f"{case.label}: has the size {label.shape}, its image {image.shape[1:]}")
        values, counts = np.unique(label, return_counts=True)
        reading.counts = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
        unknown = [f"{value:g}" for value in values if value not in self.label_names]
        if unknown:
            reading.problems.append(f"{case.label}: holds {', '.join(unknown)}, which dataset.json does not name")
        return reading

    def _reader(self, example: str) -> Any:
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        return determine_reader_writer_from_dataset_json(self.description, example, True, verbose=False)()
