"""2D data sets: RGB images with black and white masks, and polyp sets with 8:1:1 splits."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from nnunetv2_xattnres.dataset_conversion import splits
from nnunetv2_xattnres.dataset_conversion.base import Case, Checked, Dataset
from nnunetv2_xattnres.dataset_conversion.images import (
    ImageProblem,
    check_size,
    read_mask,
    read_rgb,
    resize_mask,
    resize_rgb,
    write_png,
)
from nnunetv2_xattnres.dataset_conversion.plausible import border_share
from nnunetv2_xattnres.errors import InputError


@dataclass
class PictureDataset(Dataset):
    """RGB images and black and white masks, written as PNG.

    Args:
        size: Resize to (height, width): images bilinearly, masks to the nearest pixel.
        mask_threshold: 0 to 254. Mask values above it are the structure, so that grey masks are accepted.
    """

    size: tuple[int, int] | None = None
    mask_threshold: int | None = None

    # with this channel name, nnU-Net scales 0..255 to 0..1; with any other, it standardises each image by itself
    channels: ClassVar[tuple[str, ...]] = ("rgb_to_0_1",) * 3
    file_ending: ClassVar[str] = ".png"
    reader: ClassVar[str] = "NaturalImage2DIO"
    grey_share: ClassVar[float] = 0.0
    """How much of a mask may be grey, where it was compressed with loss or resampled: see `read_mask`."""

    def __post_init__(self) -> None:
        if self.mask_threshold is not None and not 0 <= self.mask_threshold <= 254:
            raise InputError(f"--mask-threshold {self.mask_threshold}: expected 0 to 254")
        if self.size is not None:
            self.size = (int(self.size[0]), int(self.size[1]))
            height, width = self.size
            if min(self.size) < 1:
                raise InputError(f"--size {height} {width}: height and width are at least 1 pixel")
            try:
                check_size(self.size)
            except ValueError as error:
                raise InputError(f"--size {height} {width}: {error}: choose a smaller size") from error

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ``--size`` and ``--mask-threshold``."""
        parser.add_argument(
            "--size",
            type=int,
            nargs=2,
            metavar=("H", "W"),
            help="resize to H x W pixels, images bilinearly, masks to the nearest pixel (default: no resizing)",
        )
        parser.add_argument(
            "--mask-threshold",
            type=int,
            metavar="T",
            help="mask values above T (0 to 254) are the structure: 127 for resampled masks, 0 for masks with the "
            "values 0 and 1 (default: masks must be black and white)",
        )

    def check(self, case: Case) -> Checked:
        """Decode the image and the mask, and compare their sizes."""
        checked = Checked()
        shapes = []
        for path, read in ((case.image, read_rgb), (case.mask, self._read_mask)):
            try:
                pixels = read(path)
            except ImageProblem as problem:
                checked.problems.append(f"{path}: {problem}")
                continue
            shapes.append(pixels.shape[:2])
        if len(shapes) == 2:
            (height, width), mask_shape = shapes
            if mask_shape != (height, width):
                checked.problems.append(
                    f"{case.mask}: is {mask_shape[1]}x{mask_shape[0]} pixels, its image {case.image.name} is "
                    f"{width}x{height}"
                )
            mask = pixels if self.size is None else resize_mask(pixels, self.size)
            checked.size = mask.shape
            foreground = int(np.count_nonzero(mask))
            checked.counts = {0: mask.size - foreground, 1: foreground}
            checked.border = border_share(mask)
        return checked

    def write(self, case: Case, image: Path, mask: Path) -> None:
        """Write both as PNG, the mask with the values 0 and 1."""
        pixels, labels = read_rgb(case.image), self._read_mask(case.mask)
        if self.size is not None:
            pixels, labels = resize_rgb(pixels, self.size), resize_mask(labels, self.size)
        write_png(image.with_name(f"{image.name}_0000.png"), pixels)
        write_png(mask.with_name(f"{mask.name}.png"), labels)

    def _read_mask(self, path: Path) -> np.ndarray:
        return read_mask(path, grey_share=self.grey_share, threshold=self.mask_threshold)


@dataclass
class FrameDataset(PictureDataset):
    """Frames without a split by their owner: 8:1:1 for training, validation (both in fold 0) and test.

    Args:
        split: ``frame``, ``sequence`` (no sequence on two sides) or ``file`` (lists of names).
        seed: Seed of the random splits.
        train, val, test: Text files with names, for ``file``; without ``test`` there is no test set.
    """

    split: str = "frame"
    seed: int = 0
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None

    labels: ClassVar[dict[str, int]] = {"background": 0, "polyp": 1}
    has_sequences: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in self.split_names():
            raise InputError(f"--split {self.split}: expected one of {', '.join(self.split_names())}")
        self.train, self.val, self.test = (path and Path(path) for path in (self.train, self.val, self.test))
        listed = self.train is not None or self.val is not None or self.test is not None
        if self.split == "file" and (self.train is None or self.val is None):
            raise InputError("--split file needs --train LIST and --val LIST (and takes --test LIST)")
        if self.split != "file" and listed:
            raise InputError("--train, --val and --test go with --split file")

    @classmethod
    def split_names(cls) -> list[str]:
        """The values of ``--split``."""
        return ["frame", "sequence", "file"] if cls.has_sequences else ["frame", "file"]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ``--size``, ``--split`` and the options of the splits."""
        super().add_arguments(parser)
        text = "frame: 8:1:1 over single frames, as in most papers"
        if cls.has_sequences:
            text += ", although similar frames of one video are on both sides; sequence: whole sequences, no leak"
        parser.add_argument(
            "--split", choices=cls.split_names(), default="frame", help=f"{text}; file: your lists (default: frame)"
        )
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random splits (default: 0)")
        for part in ("train", "val", "test"):
            parser.add_argument(
                f"--{part}", type=Path, metavar="LIST", help=f"--split file: text file with one {part} frame per line"
            )

    def divide(self, cases: Sequence[Case]) -> splits.Split:
        """Split 8:1:1, or as the lists say."""
        names = [case.name for case in cases]
        if self.split == "frame":
            return splits.by_frame(names, self.seed)
        if self.split == "sequence":
            unknown = [f"{case.image}: its sequence is not known" for case in cases if case.sequence is None]
            if unknown:
                raise InputError("--split sequence needs the sequence of every frame", unknown)
            return splits.by_sequence({case.name: str(case.sequence) for case in cases}, self.seed)
        assert self.train is not None and self.val is not None
        return splits.by_file(names, self.train, self.val, self.test)


def sequence_table(first_frames: Mapping[int, str], last: int) -> dict[int, str]:
    """Frame number to sequence, from the first frame of each sequence; frames run from 1 to ``last``."""
    table: dict[int, str] = {}
    sequence = ""
    for frame in range(1, last + 1):
        sequence = first_frames.get(frame, sequence)
        table[frame] = sequence
    return table
