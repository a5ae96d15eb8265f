"""Makes small data sets in the layouts in which the real ones are distributed."""

from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image

SIZE = (24, 32)


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """An RGB image that differs for every number."""
    return np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)


def mask(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A rectangle of 255 on 0; its width differs with the number."""
    pixels = np.zeros(size, np.uint8)
    pixels[4:14, 3 : 8 + number % 9] = 255
    return pixels


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def clinicdb(root: Path, frames: range | list[int] = range(1, 21), ending: str = "png") -> Path:
    """``Original`` and ``Ground Truth``, the masks in RGB as in the PNG mirror."""
    for number in frames:
        save(root / "Original" / f"{number}.{ending}", picture(number))
        save(root / "Ground Truth" / f"{number}.{ending}", np.repeat(mask(number)[..., None], 3, axis=2))
    return root


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def colondb_original(root: Path, frames: range | list[int] = range(30, 50)) -> Path:
    """One folder, as first released: N.tiff, some N.tif, the masks pN.tiff, a contour and the README."""
    for number in frames:
        save(root / f"{number}.{'tif' if number % 3 else 'TIFF'}", picture(number))
        save(root / f"p{number}.tiff", mask(number))
    save(root / f"cp{frames[0]}.tiff", mask(1))
    (root / "README.txt").write_text("frames and sequences")
    return root


def colondb_png(root: Path, frames: range | list[int] = range(30, 50)) -> Path:
    """``images`` and ``masks``, mixed-case endings."""
    for number in frames:
        save(root / "images" / f"{number}.{'png' if number % 3 else 'PNG'}", picture(number))
        save(root / "masks" / f"{number}.png", mask(number))
    return root


def isic2017(root: Path, counts: tuple[int, int, int] = (10, 3, 4)) -> Path:
    """Three pairs of folders, JPEG images of many sizes, masks named in both ways, superpixel and metadata files."""
    number = 0
    for part, count in zip(("Training", "Validation", "Test_v2"), counts, strict=True):
        images, masks = root / f"ISIC-2017_{part}_Data", root / f"ISIC-2017_{part}_Part1_GroundTruth"
        for _ in range(count):
            number += 1
            name, size = f"ISIC_{number:07d}", (20 + number, 30 + 2 * number)
            save(images / f"{name}.{'JPG' if number % 4 == 0 else 'jpg'}", picture(number, size))
            save(images / f"{name}_superpixels.png", picture(number, size))
            save(masks / f"{name}_{'S' if number % 2 else 's'}egmentation.png", mask(number, size))
        (images / f"ISIC-2017_{part}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n")
    return root


BTCV = (*range(1, 11), *range(21, 41))
TURN = np.deg2rad(10)  # an oblique scan: turned about the patient's axis
AFFINE = np.array(
    [
        [-0.7578125 * np.cos(TURN), 0.7578125 * np.sin(TURN), 0, 178.25],
        [-0.7578125 * np.sin(TURN), -0.7578125 * np.cos(TURN), 0, -171.7],
        [0, 0, 3, -1040.123],
        [0, 0, 0, 1],
    ]
)


def synapse(
    root: Path, numbers: tuple[int, ...] = BTCV, ending: str = "nii.gz", size: tuple[int, int, int] = (7, 6, 5)
) -> Path:
    """BTCV's ``RawData/Training``: oblique affines, Hounsfield units, all 13 codes in every label."""
    for number in numbers:
        random = np.random.default_rng(number)
        hounsfield = random.integers(-1024, 1500, size, dtype=np.int16)
        codes = np.arange(np.prod(size)).reshape(size).astype(np.uint16) % 14
        for kind, voxels in (("img", hounsfield), ("label", codes.astype(np.uint8))):
            path = root / "RawData" / "Training" / kind / f"{kind}{number:04d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            volume = nib.Nifti1Image(voxels, AFFINE)
            volume.header["descrip"] = f"scan {number}"
            nib.save(volume, path)
    return root


# BTCV code: centre (x to the right, y to the front) and half the edge, in voxels of 4 mm
ORGAN_BOXES = {
    **{6: (48, 30, 9), 1: (10, 18, 5), 7: (14, 40, 5), 2: (44, 14, 4), 3: (18, 14, 4), 4: (46, 46, 2), 5: (32, 8, 1)},
    **{8: (29, 18, 2), 9: (36, 20, 2), 10: (32, 27, 2), 11: (28, 34, 3), 12: (37, 11, 1), 13: (26, 11, 1)},
}


def abdomen(root: Path, number: int, codes: dict[int, int] | None = None, *, affine: np.ndarray) -> None:
    """One volume of BTCV with organs of plausible places and sizes; ``codes`` renames theirs."""
    renamed = {code: (codes or {}).get(code, code) for code in ORGAN_BOXES}
    label = np.zeros((60, 56, 20), np.uint8)
    for code, (x, y, half) in ORGAN_BOXES.items():
        label[x - half : x + half, y - half : y + half, 10 - half : 10 + half] = renamed[code]
    hounsfield = np.where(label, 60, -1000).astype(np.int16)
    hounsfield[0, 0, 0] = 900
    for kind, voxels in (("img", hounsfield), ("label", label)):
        path = root / "RawData" / "Training" / kind / f"{kind}{number:04d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, affine), path)
