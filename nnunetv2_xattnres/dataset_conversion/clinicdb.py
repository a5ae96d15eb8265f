"""CVC-ClinicDB: 612 colonoscopy frames of 29 sequences, 384x288 pixels, one polyp class."""

import csv
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nnunetv2_xattnres.dataset_conversion.base import Case, main
from nnunetv2_xattnres.dataset_conversion.layout import IMAGE_ENDING, index_files, pair, subfolder
from nnunetv2_xattnres.dataset_conversion.pictures import FrameDataset, sequence_table
from nnunetv2_xattnres.dataset_conversion.summary import Summary

# The first frame of each of the 29 sequences, as in the mirror's metadata.csv; used if that file is missing.
FIRST_FRAMES = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384, 409, 429, 448, 467),
    *(479, 504, 529, 547, 572, 592),
)
SEQUENCE_OF_FRAME = sequence_table({frame: str(number) for number, frame in enumerate(FIRST_FRAMES, 1)}, last=612)


@dataclass
class ClinicDB(FrameDataset):
    """CVC-ClinicDB, as first released (TIFF) or as its PNG mirror."""

    key: ClassVar[str] = "clinicdb"
    folder: ClassVar[str] = "CVCClinicDB"
    dataset_id: ClassVar[int] = 501
    expected: ClassVar[int] = 612
    description: ClassVar[str] = "CVC-ClinicDB: 612 colonoscopy frames of 29 sequences, 384x288, one polyp class."
    layout: ClassVar[str] = (
        "SOURCE/Original/N.tif with SOURCE/Ground Truth/N.tif (the first release), or SOURCE/PNG/Original/N.png with "
        "SOURCE/PNG/Ground Truth/N.png and SOURCE/metadata.csv, which has frame_id and sequence_id (the PNG mirror)."
    )
    citation: ClassVar[str] = (
        "Bernal et al., WM-DOVA maps for accurate polyp highlighting in colonoscopy: validation vs. saliency maps from "
        "physicians. Computerized Medical Imaging and Graphics 43, 99-111, 2015."
    )
    licence: ClassVar[str] = "research and education only; cite the paper; no redistribution without permission."
    grey_share: ClassVar[float] = 0.001  # along the borders, at most 0.02 % of the pixels have other values

    def find(self, source: Path) -> tuple[list[Case], list[str]]:
        """Frames N with their masks; see ``layout``."""
        images = next(filter(None, (subfolder(source, *parts, "Original") for parts in ((), ("PNG",), ("TIF",)))), None)
        if images is None:
            return [], [f"{source}: has neither a folder Original nor PNG/Original"]
        masks = subfolder(images.parent, "Ground Truth")
        if masks is None:
            return [], [f"{images.parent}: has no folder 'Ground Truth' beside {images.name}"]
        problems: list[str] = []
        pattern = rf"(\d+){IMAGE_ENDING}"
        pairs = pair(index_files(images, pattern, problems), index_files(masks, pattern, problems), masks, problems)
        folders = [source, images.parent]
        if images.parent.name.lower() in ("png", "tif"):  # SOURCE may be this folder itself
            folders.append(images.parent.parent)
        sequences = _read_sequences(folders, problems)
        cases = [
            Case(f"clinicdb_{int(number):03d}", image, mask, sequences.get(int(number)))
            for number, image, mask in pairs
        ]
        return cases, problems


def convert_clinicdb(
    source: str | Path, *, split: str = "frame", seed: int = 0, size: tuple[int, int] | None = None, **target: Any
) -> Summary:
    """The former way to ``ClinicDB(split=…, seed=…, size=…).convert(source, …)``."""
    warnings.warn("convert_clinicdb(…) is now ClinicDB(…).convert(…)", DeprecationWarning, stacklevel=2)
    return ClinicDB(split=split, seed=seed, size=size).convert(source, **target)


def _read_sequences(folders: Sequence[Path], problems: list[str]) -> dict[int, str]:
    path = next((folder / "metadata.csv" for folder in folders if (folder / "metadata.csv").is_file()), None)
    if path is None:
        return SEQUENCE_OF_FRAME
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {int(row["frame_id"]): row["sequence_id"].strip() for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        problems.append(f"{path}: expected columns frame_id and sequence_id with a number in each row ({error})")
        return {}


if __name__ == "__main__":
    sys.exit(main(ClinicDB))
