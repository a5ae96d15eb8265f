"""Synapse multi-organ ("BTCV abdomen"): 30 abdominal CT volumes, 8 organs as in TransUNet's protocol."""

import argparse
import gzip
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from nnunetv2_xattnres.dataset_conversion.base import Case, Checked, Dataset, main
from nnunetv2_xattnres.dataset_conversion.btcv_codes import problems_of_codes
from nnunetv2_xattnres.dataset_conversion.layout import index_files, pair, subfolder
from nnunetv2_xattnres.dataset_conversion.plausible import border_share
from nnunetv2_xattnres.dataset_conversion.splits import Split, cross_validation
from nnunetv2_xattnres.errors import InputError, few
from nnunetv2_xattnres.reading import NOT_FINITE, check_whole, exactly, stop_without_memory

# TransUNet's lists, which are in general use
TRAINING = (5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40)
TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)

# Of BTCV's 13 organs, the oesophagus (5), the inferior vena cava (9), the portal and splenic veins (10) and the adrenal
# glands (12, 13) become background; the pancreas (11) takes the free number 5.
ORGAN_MAP = np.array([0, 1, 2, 3, 4, 0, 6, 7, 8, 0, 0, 5, 0, 0], np.uint8)

REAL_NUMBERS = "iuf"  # the kinds of NumPy's types


@dataclass
class Synapse(Dataset):
    """Synapse in true Hounsfield units, each volume with its own header and orientation.

    Args:
        splits: ``cv``: 5 folds over the 18 training volumes. ``literature``: one fold that trains on the 18 and
            validates on the 12 test volumes.
        seed: Seed of the 5 folds.
    """

    splits: str = "cv"
    seed: int = 0

    key: ClassVar[str] = "synapse"
    folder: ClassVar[str] = "Synapse"
    dataset_id: ClassVar[int] = 504
    expected: ClassVar[int] = 30
    description: ClassVar[str] = (
        "Synapse (BTCV abdomen): 30 CT volumes in Hounsfield units, 18 for training and 12 for the test, 8 organs."
    )
    layout: ClassVar[str] = (
        "SOURCE/RawData/Training/img/img00NN.nii.gz with SOURCE/RawData/Training/label/label00NN.nii.gz, where NN is "
        "01 to 10 and 21 to 40. Slices and npz files of other projects cannot be used: their orientation and the order "
        "of their labels differ."
    )
    citation: ClassVar[str] = (
        "Landman et al., MICCAI multi-atlas labeling beyond the cranial vault: workshop and challenge, 2015. Split and "
        "organs: Chen et al., TransUNet: transformers make strong encoders for medical image segmentation, 2021."
    )
    licence: ClassVar[str] = "under the registration terms of the BTCV challenge on Synapse; no redistribution."
    labels: ClassVar[dict[str, int]] = {
        "background": 0,
        "spleen": 1,
        "right_kidney": 2,
        "left_kidney": 3,
        "gallbladder": 4,
        "pancreas": 5,
        "liver": 6,
        "stomach": 7,
        "aorta": 8,
    }
    channels: ClassVar[tuple[str, ...]] = ("CT",)
    file_ending: ClassVar[str] = ".nii.gz"
    reader: ClassVar[str] = "SimpleITKIO"
    configuration: ClassVar[str] = "3d_fullres"
    max_workers: ClassVar[int] = 4  # a volume and its label take up to 300 MB

    def __post_init__(self) -> None:
        if self.splits not in ("cv", "literature"):
            raise InputError(f"--splits {self.splits}: expected cv or literature")

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ``--splits`` and ``--seed``."""
        parser.add_argument(
            "--splits",
            choices=("cv", "literature"),
            default="cv",
            help="cv: 5 folds over the 18 training volumes; the 12 test volumes stay out of imagesTr. literature: one "
            "fold that validates on the 12 test volumes, as published work did. Its scores are too good: the test set "
            "chooses the best epoch and is in nnU-Net's fingerprint (default: cv)",
        )
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the 5 folds (default: 0)")

    def find(self, source: Path) -> tuple[list[Case], list[str]]:
        """The volumes with their labels, sorted into training and test by their numbers."""
        places = [(), ("Training",), ("RawData", "Training")]
        folder = next((found for parts in places if (found := subfolder(source, *parts)) and _has_both(found)), None)
        if folder is None:
            return [], [f"{source}: has no RawData/Training with the folders img and label"]
        image_folder, label_folder = subfolder(folder, "img"), subfolder(folder, "label")
        assert image_folder is not None and label_folder is not None
        problems: list[str] = []
        images = index_files(image_folder, r"img(\d{4})\.nii(?:\.gz)?", problems)
        masks = index_files(label_folder, r"label(\d{4})\.nii(?:\.gz)?", problems)
        cases = []
        for number, image, mask in pair(images, masks, label_folder, problems):
            part = "train" if int(number) in TRAINING else "test" if int(number) in TEST else None
            if part is None:
                problems.append(f"{image}: is none of the 30 volumes (0001 to 0010 and 0021 to 0040)")
            cases.append(Case(f"case{int(number):04d}", image, mask, part=part))
        return cases, problems

    def divide(self, cases: Sequence[Case]) -> Split:
        """TransUNet's 18 training and 12 test volumes; folds as ``splits`` says."""
        training = [case.name for case in cases if case.part == "train"]
        test = [case.name for case in cases if case.part == "test"]
        if not training:
            raise InputError("none of the 18 training volumes was found")
        if self.splits == "literature":
            if not test:
                raise InputError("--splits literature validates on the test volumes, and none of the 12 was found")
            note = "fold 0 validates on the test volumes: they are in imagesTr too, and scores on them are too good"
            return Split(sorted(training + test), test, [{"train": training, "val": test}], [note])
        if len(training) == 1:
            note = "one volume cannot be divided into folds: train with fold 'all' for a trial"
            return Split(training, test, [], [note])
        folds = min(5, len(training))
        notes = [f"{folds} folds, since there are {folds} volumes"] if folds < 5 else []
        return Split(training, test, cross_validation(training, folds, self.seed), notes)

    def check(self, case: Case) -> Checked:
        """Read both volumes completely, compare shapes and affines, and check every label code."""
        checked = Checked()
        image, values = _load(case.image, checked.problems)
        label, codes = _load(case.mask, checked.problems)
        if image is None or label is None:
            return checked
        if label.shape != image.shape:
            checked.problems.append(f"{case.mask}: has the shape {label.shape}, its image {image.shape}")
        elif not np.allclose(label.affine, image.affine, rtol=1e-5, atol=1e-3):
            checked.problems.append(f"{case.mask}: has another affine than {case.image.name}: it is shifted or turned")
        unreadable = _refusal(case.image)
        if unreadable:
            checked.problems.append(f"{case.image}: nnU-Net's reader refuses it ({unreadable})")
        present = sorted(set().union(*(np.unique(piece).tolist() for piece in np.moveaxis(codes, 2, 0))))
        unknown = [f"{exactly(code)}" for code in present if code not in range(14)]
        if unknown:
            checked.problems.append(f"{case.mask}: has the codes {few(unknown)}; BTCV's are 0 to 13")
        if not checked.problems:
            checked.problems += [f"{case.mask}: {problem}" for problem in problems_of_codes(codes, label.affine)]
        if checked.problems:
            return checked
        if values.min() > -500 or values.max() < 100:
            checked.notes.append(
                f"{case.image.name} runs from {values.min():g} to {values.max():g}: are these Hounsfield units?"
            )
        checked.size = tuple(int(length) for length in image.shape)
        slices = np.moveaxis(codes, 2, 0)  # one by one, because bincount takes eight bytes per voxel
        counted = [np.bincount(ORGAN_MAP[each.astype(np.uint8)].ravel(), minlength=len(self.labels)) for each in slices]
        counts = np.sum(counted, axis=0)
        checked.counts = {value: int(count) for value, count in enumerate(counts)}
        checked.border = border_share(codes)
        return checked

    def write(self, case: Case, image: Path, mask: Path) -> None:
        """Copy the image byte for byte, and write the label with its own header and the 8 organs."""
        target = image.with_name(f"{image.name}_0000.nii.gz")
        if case.image.name.lower().endswith(".gz"):
            shutil.copyfile(case.image, target)
        else:
            with case.image.open("rb") as plain, target.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, 0) as packed:
                shutil.copyfileobj(plain, packed)
        label = nib.load(case.mask)
        header = label.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        organs = ORGAN_MAP[np.asanyarray(label.dataobj).astype(np.uint8)]
        nib.save(nib.Nifti1Image(organs, None, header), mask.with_name(f"{mask.name}.nii.gz"))


def _has_both(folder: Path) -> bool:
    return subfolder(folder, "img") is not None and subfolder(folder, "label") is not None


def _refusal(path: Path) -> str:
    """Why SimpleITK, nnU-Net's reader, refuses the header (sheared axes, for example); empty if it accepts it."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        return " ".join(str(error).splitlines()[-1].removeprefix("ITK ERROR: ").split())
    return ""


def _load(path: Path, problems: list[str]) -> tuple[Any, Any]:
    """The image and its voxels; in case of an error two None, and a line in ``problems``."""
    try:
        check_whole(path)
        volume = nib.load(path)
        voxels = np.asanyarray(volume.dataobj)
    except Exception as error:  # nibabel, gzip and zlib raise many types
        stop_without_memory(error)
        problems.append(f"{path}: is unreadable or cut off ({str(error) or type(error).__name__})")
        return None, None
    if voxels.ndim != 3:
        reason = f"has {voxels.ndim} dimensions, expected 3"
    elif voxels.dtype.kind not in REAL_NUMBERS:
        kind = "complex numbers" if voxels.dtype.kind == "c" else "colours"
        reason = f"holds {kind}, expected one real number per voxel"
    elif not np.isfinite(voxels).all():
        reason = NOT_FINITE
    else:
        return volume, voxels
    problems.append(f"{path}: {reason}")
    return None, None


if __name__ == "__main__":
    sys.exit(main(Synapse))
