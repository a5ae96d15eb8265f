"""CVC-ColonDB: 380 colonoscopy frames of 15 sequences, 574x500 pixels, one polyp class."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nnunetv2_xattnres.dataset_conversion.base import Case, main
from nnunetv2_xattnres.dataset_conversion.layout import IMAGE_ENDING, index_files, pair, subfolder
from nnunetv2_xattnres.dataset_conversion.pictures import FrameDataset, sequence_table

# First frame: sequence, from the data set's README. The sequences are not in the order of the frames.
FIRST_FRAMES = {
    **{1: "1", 39: "2", 61: "3", 77: "5", 98: "6", 149: "7", 156: "9", 204: "10", 209: "11", 264: "14", 274: "15"},
    **{301: "4", 321: "8", 341: "12", 361: "13"},
}
SEQUENCE_OF_FRAME = sequence_table(FIRST_FRAMES, last=380)


@dataclass
class ColonDB(FrameDataset):
    """CVC-ColonDB, as first released (TIFF, one folder) or as PNG in two folders."""

    key: ClassVar[str] = "colondb"
    folder: ClassVar[str] = "CVCColonDB"
    dataset_id: ClassVar[int] = 502
    expected: ClassVar[int] = 380
    description: ClassVar[str] = "CVC-ColonDB: 380 colonoscopy frames of 15 sequences, 574x500, one polyp class."
    layout: ClassVar[str] = (
        "SOURCE/N.tiff (or N.tif) with the masks SOURCE/pN.tiff (the first release), or SOURCE/images/N.png with "
        "SOURCE/masks/N.png."
    )
    citation: ClassVar[str] = (
        "Bernal, Sanchez and Vilarino, Towards automatic polyp detection with a polyp appearance model. Pattern "
        "Recognition 45(9), 3166-3182, 2012."
    )
    licence: ClassVar[str] = "research and education only; cite the paper; no redistribution without permission."

    def find(self, source: Path) -> tuple[list[Case], list[str]]:
        """Frames N with their masks; see ``layout``."""
        images, masks = subfolder(source, "images"), subfolder(source, "masks")
        problems: list[str] = []
        plain = rf"(\d+){IMAGE_ENDING}"
        if images and masks:
            found = index_files(images, plain, problems), index_files(masks, plain, problems)
        elif images or masks:
            return [], [f"{source}: has a folder {'images' if images else 'masks'} without the other one"]
        else:
            masks = source
            # cpN are the polyps' contours, which are not needed
            found = (
                index_files(source, plain, problems, skip=rf"c?p\d+{IMAGE_ENDING}"),
                index_files(source, rf"p(\d+){IMAGE_ENDING}", problems, skip=rf"(cp)?\d+{IMAGE_ENDING}"),
            )
            problems = list(dict.fromkeys(problems))  # the folder was read twice
        cases = [
            Case(f"colondb_{int(number):03d}", image, mask, SEQUENCE_OF_FRAME.get(int(number)))
            for number, image, mask in pair(*found, masks, problems)
        ]
        return cases, problems


if __name__ == "__main__":
    sys.exit(main(ColonDB))
