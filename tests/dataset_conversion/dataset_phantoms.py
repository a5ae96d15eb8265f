"""Makes small data sets in the layouts in which the real ones are distributed."""

from pathlib import Path

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
