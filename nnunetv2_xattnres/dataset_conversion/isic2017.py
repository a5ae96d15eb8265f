"""ISIC 2017 task 1: 2750 dermoscopic images, 2000 for training, 150 for validation, 600 for testing."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nnunetv2_xattnres.dataset_conversion.base import Case, main
from nnunetv2_xattnres.dataset_conversion.layout import index_files, pair, subfolder
from nnunetv2_xattnres.dataset_conversion.pictures import PictureDataset
from nnunetv2_xattnres.dataset_conversion.splits import Split, one_fold
from nnunetv2_xattnres.errors import InputError

PARTS = {"train": "ISIC-2017_Training", "val": "ISIC-2017_Validation", "test": "ISIC-2017_Test_v2"}


@dataclass
class ISIC2017(PictureDataset):
    """ISIC 2017, task 1 (lesion segmentation), with the owner's split."""

    key: ClassVar[str] = "isic2017"
    folder: ClassVar[str] = "ISIC2017"
    dataset_id: ClassVar[int] = 503
    expected: ClassVar[int] = 2750
    description: ClassVar[str] = (
        "ISIC 2017 task 1: 2750 dermoscopic images of many sizes (540 to over 6000 pixels), one lesion class."
    )
    layout: ClassVar[str] = (
        "in SOURCE, the folders ISIC-2017_PART_Data with ISIC_NNNNNNN.jpg and ISIC-2017_PART_Part1_GroundTruth with "
        "ISIC_NNNNNNN_segmentation.png, where PART is Training, Validation and Test_v2."
    )
    citation: ClassVar[str] = (
        "Codella et al., Skin lesion analysis toward melanoma detection: a challenge at the 2017 International "
        "Symposium on Biomedical Imaging (ISBI), hosted by the International Skin Imaging Collaboration (ISIC). "
        "IEEE ISBI 2018, 168-172."
    )
    licence: ClassVar[str] = "CC0 (public domain) as stated by the ISIC archive for the 2017 challenge data; cite it."
    labels: ClassVar[dict[str, int]] = {"background": 0, "lesion": 1}

    def find(self, source: Path) -> tuple[list[Case], list[str]]:
        """The images of all three parts with their masks; superpixel files are ignored."""
        cases: list[Case] = []
        problems: list[str] = []
        part_of: dict[str, str] = {}
        for part, prefix in PARTS.items():
            images, masks = subfolder(source, f"{prefix}_Data"), subfolder(source, f"{prefix}_Part1_GroundTruth")
            for folder, name in ((images, f"{prefix}_Data"), (masks, f"{prefix}_Part1_GroundTruth")):
                if folder is None:
                    problems.append(f"{source / name}: there is no such folder")
            if images is None or masks is None:
                continue
            found = index_files(images, r"ISIC_(\d{7})\.jpe?g", problems, skip=r".*_superpixels\.png")
            labels = index_files(masks, r"ISIC_(\d{7})_segmentation\.png", problems)
            for number, image, mask in pair(found, labels, masks, problems):
                if number in part_of:
                    problems.append(f"{image}: is in {part_of[number]} too")
                part_of[number] = images.name
                cases.append(Case(f"ISIC_{int(number):07d}", image, mask, part=part))
        return cases, problems

    def divide(self, cases: Sequence[Case]) -> Split:
        """The owner's split: training and validation are fold 0, the test part is the test set."""
        parts = {part: [case.name for case in cases if case.part == part] for part in PARTS}
        missing = [f"{PARTS[part]}_Data: no usable image" for part, names in parts.items() if not names]
        if missing:
            raise InputError("a part of ISIC 2017 is empty", missing)
        return one_fold(**parts)


if __name__ == "__main__":
    sys.exit(main(ISIC2017))
