"""A data set in nnU-Net's raw folder: its files, its splits, and the properties of its cases."""

import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunetv2_xattnres.dataset_conversion.plausible import border_share
from nnunetv2_xattnres.dataset_conversion.splits import Fold
from nnunetv2_xattnres.dataset_conversion.staging import bring_back, raw_folder
from nnunetv2_xattnres.errors import InputError, few
from nnunetv2_xattnres.json_files import read_json, require_object
from nnunetv2_xattnres.nnunet_layout import (
    DATASET_JSON,
    IGNORE,
    PREPROCESSED,
    SPLITS,
    TEST,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    dataset_number,
    part_folders,
)
from nnunetv2_xattnres.plans.splits import read_splits
from nnunetv2_xattnres.reading import NOT_FINITE, check_whole, differing_geometry, exactly, stop_without_memory

BESIDE_IMAGES = (".json", ".txt", ".md", ".csv", ".db", ".ini")
"""Endings of files that may lie beside images. For example, nnU-Net's reader of 3D TIFF has the spacings in JSON."""


@dataclass(frozen=True)
class RawCase:
    """One case: its name, its part (``"Tr"`` or ``"Ts"``), the files of its channels, and its label file."""

    name: str
    part: str
    images: tuple[Path, ...]
    label: Path | None


class Volume(NamedTuple):
    """A case as nnU-Net's reader returns it: image ``(channels, z, y, x)`` and label ``(z, y, x)``, with properties."""

    image: np.ndarray
    properties: dict[str, Any]
    label: np.ndarray | None
    label_properties: dict[str, Any]


@dataclass
class Reading:
    """The properties of a case. Sizes and spacings (mm) are in nnU-Net's order, the last axis fastest.

    ``problems`` stop nnU-Net; ``notes`` do not.
    """

    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    counts: dict[int, int] = field(default_factory=dict)
    digest: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    border: float = 0.0
    """Share of foreground along the border of the label, see ``border_share``."""


@dataclass(frozen=True)
class RawDataset:
    """``nnUNet_raw/DatasetNNN_NAME`` with its ``dataset.json``."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def open(cls, dataset: str, raw: str | Path | None = None) -> "RawDataset":
        """Find a data set by its number or its full name.

        Raises:
            InputError: it does not exist, two of them exist, or ``dataset.json`` is missing or broken.
        """
        root = raw_folder(raw)
        for line in bring_back(root):
            print(f"note: {line}", file=sys.stderr)
        names = sorted(path.name for path in root.glob("Dataset*") if re.match(r"Dataset\d{3}_", path.name))
        found = [
            name for name in names if name == dataset or (dataset.isdecimal() and dataset_number(name) == int(dataset))
        ]
        if len(found) != 1:
            state = f"belongs to {' and '.join(found)}" if found else "does not exist"
            raise InputError(f"{root}: data set {dataset} {state}; this folder has: {', '.join(names) or 'none'}")
        path = root / found[0] / DATASET_JSON
        description = require_object(
            path,
            "convert again",
            "convert again, or write it as nnU-Net v2 wants it",
            entries={"channel_names": dict, "labels": dict, "file_ending": str},
        )
        if empty := [key for key in ("channel_names", "labels") if not description[key]]:
            raise InputError(f"{path}: {' and '.join(empty)} must not be empty: write them as nnU-Net v2 wants them")
        if "dataset" in description:
            raise InputError(f'{path}: lists its files under "dataset", which is not supported')
        opened = cls(root / found[0], description)
        try:
            opened.label_names  # noqa: B018 - computed here, so that it fails here
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: labels must be name: value, as nnU-Net v2 writes them") from error
        return opened

    @property
    def ending(self) -> str:
        """The ending of all its files."""
        return self.description["file_ending"]

    @cached_property
    def label_names(self) -> dict[int, str]:
        """Value to name, the ignore label included; values of a region do not get its name."""
        names: dict[int, str] = {}
        for name, value in self.description["labels"].items():
            for single in value if isinstance(value, list) else [value]:
                names[int(single)] = name if not isinstance(value, list) else names.get(int(single), f"value {single}")
        return dict(sorted(names.items()))

    @cached_property
    def sequences(self) -> dict[str, str]:
        """Case to sequence, from the ``cases.json`` of our converters; empty if it is unknown."""
        path = self.folder / "cases.json"
        cases = read_json(path, "convert again, or delete it")
        if not isinstance(cases, dict) or not all(isinstance(case, dict) for case in cases.values()):
            return {}  # a file of this name, but not ours
        known = {name: case["sequence"] for name, case in cases.items() if case.get("sequence") is not None}
        return known if all(isinstance(sequence, str) for sequence in known.values()) else {}

    def cases(self, part: str) -> list[RawCase]:
        """All cases of ``images{part}``, by name; ``hidden_files`` and ``unused_files`` list the other files."""
        folder, labels = part_folders(self.folder, part)
        files: dict[str, list[Path]] = {}
        for path in sorted(folder.glob(f"*{self.ending}")):
            match = re.fullmatch(rf"(.+)_\d{{4}}{re.escape(self.ending)}", path.name)
            if match and not path.name.startswith("."):
                files.setdefault(match.group(1), []).append(path)
        return [
            RawCase(name, part, tuple(images), label if (label := labels / f"{name}{self.ending}").is_file() else None)
            for name, images in sorted(files.items())
        ]

    def hidden_files(self) -> list[str]:
        """A line per folder with hidden files of the data set's ending, which nnU-Net mistakes for cases."""
        problems = []
        for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS):
            folder = self.folder / name
            hidden = sorted(path.name for path in folder.glob(f".*{self.ending}"))
            if hidden:
                problems.append(
                    f"{folder}: holds {len(hidden)} hidden files, such as {hidden[0]} (macOS leaves ._NAME beside NAME "
                    "on foreign disks), which nnU-Net takes for cases: delete them"
                )
        return problems

    def unused_files(self) -> list[str]:
        """A line per file in the folders of images and masks that is neither, so that nnU-Net ignores it or stops."""
        problems = []
        for part in (TRAIN, TEST):
            images, labels = part_folders(self.folder, part)
            cases = self.cases(part)
            used = {
                *(path for case in cases for path in case.images),
                *(labels / f"{case.name}{self.ending}" for case in cases),
            }
            for path in sorted({*images.glob("[!.]*"), *labels.glob("[!.]*")} - used):
                if path.suffix.lower() in BESIDE_IMAGES:
                    continue
                if path.parent == images:
                    text = f"is no image of a case: nnU-Net reads CASE_0000{self.ending}, and _0001 for channel 1"
                elif not path.name.endswith(self.ending):
                    text = f"is no mask of a case: nnU-Net reads CASE{self.ending}"
                else:
                    text = f"is a mask without an image in {images.name}"
                problems.append(f"{path}: {text}")
        return problems

    def splits(self) -> tuple[list[Fold], list[str]]:
        """The folds that nnU-Net will use, and the problems of the files with these folds."""
        own = read_splits(self.folder)
        preprocessed = os.environ.get(PREPROCESSED, "")
        used = read_splits(Path(preprocessed) / self.folder.name) if preprocessed else None
        if used is not None and own is not None and used != own:
            path = Path(preprocessed) / self.folder.name / SPLITS
            return used, [
                f"{path}: differs from the one in {self.folder}, and nnU-Net uses it; delete it and plan again"
            ]
        return used or own or [], []

    def read(self, case: RawCase) -> Volume:
        """Read the case with nnU-Net's reader.

        Raises:
            ValueError: a file is cut off or damaged, or has a number of dimensions or channels that nnU-Net cannot use.
            Exception: the reader's own error, for a file that it cannot read.
        """
        for path in case.images if case.label is None else (*case.images, case.label):
            try:
                check_whole(path)
            except Exception as error:  # gzip and zlib raise several types
                stop_without_memory(error)
                raise ValueError(f"{path.name}: {error}") from error
        reader = self._reader(str(case.images[0]))
        image, properties = reader.read_images([str(path) for path in case.images])
        dimensions = _dimensions(image, properties)
        if dimensions is None or dimensions > 3:
            kind = "has vectors as values" if dimensions is None else f"is {dimensions}D"
            raise ValueError(f"its image {kind}: split it into {case.name}_0000, _0001 and so on, one per channel")
        if case.label is None:
            return Volume(image, properties, None, {})
        label, label_properties = reader.read_seg(str(case.label))
        label_dimensions = _dimensions(label, label_properties)
        if label_dimensions is None:
            raise ValueError("its label has vectors as values, a mask has one number per voxel")
        if len(label) != 1:
            raise ValueError(f"its label has {len(label)} channels, a mask has one")
        if label_dimensions != dimensions:
            raise ValueError(f"its image is {dimensions}D, its label {label_dimensions}D: they need the same size")
        return Volume(image, properties, np.asarray(label)[0], label_properties)

    def examine(self, case: RawCase) -> Reading:
        """Read the case and describe it."""
        reading = Reading()
        expected = len(self.description["channel_names"])
        try:
            volume = self.read(case)
        except Exception as error:  # each reader raises other errors
            stop_without_memory(error)
            reading.problems.append(f"{case.images[0]}: case {case.name} cannot be read ({error})")
            return reading
        image = volume.image
        reading.size = tuple(image.shape[1:])
        reading.spacing = tuple(float(length) for length in volume.properties["spacing"])
        reading.digest = hashlib.sha1(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
        if len(image) != expected:
            reading.problems.append(f"{case.images[0]}: {len(image)} channels, expected {expected}")
        if not np.isfinite(image).all():
            reading.problems.append(f"{case.images[0]}: {NOT_FINITE}")
        if volume.label is not None:
            self._examine_label(case, volume.label, volume, reading)
        elif case.part == "Tr":
            reading.problems.append(f"{case.images[0]}: has no label in labelsTr")
        return reading

    def _examine_label(self, case: RawCase, label: np.ndarray, volume: Volume, reading: Reading) -> None:
        if label.shape != reading.size:
            reading.problems.append(f"{case.label}: has the size {label.shape}, its image {reading.size}")
        spacing = tuple(float(length) for length in volume.label_properties["spacing"])
        if not np.allclose(spacing, reading.spacing):
            reading.problems.append(f"{case.label}: has the spacing {spacing}, its image {reading.spacing}")
        for name in differing_geometry(volume.properties, volume.label_properties):
            reading.notes.append(f"{case.label}: has another {name} than its image")
        if not np.isfinite(label).all():
            reading.problems.append(f"{case.label}: {NOT_FINITE}")
            return
        values, counts = np.unique(label, return_counts=True)
        reading.counts = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
        ignored = [value for value, name in self.label_names.items() if name == IGNORE]
        reading.border = border_share(np.where(np.isin(label, ignored), 0, label) if ignored else label)
        unknown = [f"{exactly(value)}" for value in values if value not in self.label_names]
        if unknown:
            reading.problems.append(f"{case.label}: holds {few(unknown)}, which dataset.json does not name")

    def _reader(self, example: str) -> Any:
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        return determine_reader_writer_from_dataset_json(self.description, example, True, verbose=False)()


def _dimensions(image: np.ndarray, properties: dict[str, Any]) -> int | None:
    """The dimensions of the file, or None if its values are vectors, such as colours.

    The shape does not say them: nnU-Net's SimpleITKIO reads a 4D image as channels, and the axis of a vector as an axis
    of the image. Only SimpleITK reads these files, and its spacing has one entry per axis. The other readers refuse
    them.
    """
    if len(properties["spacing"]) != image.ndim - 1:
        return None
    return len(properties.get("sitk_stuff", properties)["spacing"])
