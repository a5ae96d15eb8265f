"""Reads, checks and writes single 2D images and masks."""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nnunetv2_xattnres.errors import few
from nnunetv2_xattnres.reading import check_memory, check_tiff_size, stop_without_memory

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
RESAMPLED = (
    "Masks that were resampled or compressed with loss are grey along their borders: take the original ones, or add "
    "--mask-threshold 127"
)
MOST_PIXELS = 178_956_970
"""The limit of PIL, with which nnU-Net reads PNG. PIL refuses larger images, because they may be an attack."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ImageProblem(Exception):
    """An image that cannot be used; the text follows "FILE: " in a message."""


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """The pixels of a file: ``(height, width)``, or ``(height, width, channels)``, 8 bits each.

    TIFF is read with tifffile, because PIL fails at a wrong BitsPerSample tag in the first release of CVC-ClinicDB.

    Raises:
        ImageProblem: the file is unreadable, cut off, or has more than 8 bits per channel.
    """
    try:
        pixels = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_with_pil(path)
    except ImageProblem:
        raise
    except FileNotFoundError:
        raise ImageProblem("is missing") from None
    except UnidentifiedImageError as error:
        raise ImageProblem("is unreadable (no image format fits its first bytes)") from error
    except Exception as error:  # every decoder raises other errors
        stop_without_memory(error)
        raise ImageProblem(f"is unreadable or cut off ({str(error) or type(error).__name__})") from error
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise ImageProblem(f"has {8 * pixels.dtype.itemsize} bits a channel, expected 8")
    return pixels


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An RGB image, ``(height, width, 3)``.

    Raises:
        ImageProblem: as for `read_pixels`, or the number of channels is not three.
    """
    pixels = read_pixels(path)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageProblem(f"is {_kind(pixels)}, expected an RGB image")
    return pixels


def read_mask(path: Path, *, grey_share: float = 0.0, threshold: int | None = None) -> NDArray[np.uint8]:
    """A black and white mask as 0 and 1, ``(height, width)``: 1 where any channel is above 127.

    Args:
        path: The file, grey or RGB.
        grey_share: The share of pixels that may be neither nearly black nor nearly white, such as the seams that lossy
            compression and resampling leave. With 0, every pixel must be 0 or 255.
        threshold: Pixels with a channel above it are white; other colours are then not searched.

    Raises:
        ImageProblem: as for `read_pixels`, there is a third colour, or there are other values than 0 but no white.
    """
    pixels = read_pixels(path)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ImageProblem(f"is {_kind(pixels)}, expected a black and white mask")
    darkest, brightest = pixels.min(axis=2), pixels.max(axis=2)
    if threshold is not None:
        return (brightest > threshold).astype(np.uint8)
    if grey_share:
        if 0 < brightest.max() <= 127:
            raise ImageProblem(
                f"holds no white: its brightest value is {brightest.max()}, expected 255: if it is the structure, add "
                "--mask-threshold 0"
            )
        third = float(np.mean(~((brightest < 64) | (darkest > 191))))
        if third > grey_share:
            raise ImageProblem(f"is neither black nor white in {third:.1%} of its pixels: a third colour. {RESAMPLED}")
    elif not (darkest == brightest).all():
        raise ImageProblem(f"has a third colour, expected black (0) and white (255) alone. {RESAMPLED}")
    else:
        values = np.flatnonzero(Image.fromarray(brightest).histogram())  # bincount takes eight bytes per pixel
        if len(values) == 2 and values[0] == 0 and values[1] < 255:
            raise ImageProblem(
                f"holds 0 and {values[1]}, expected black (0) and white (255): if {values[1]} is the structure, add "
                "--mask-threshold 0"
            )
        others = [str(value) for value in values if value not in (0, 255)]
        if others:
            raise ImageProblem(
                f"has a third colour (value {few(others)}), expected black (0) and white (255) alone. {RESAMPLED}"
            )
    return (brightest > 127).astype(np.uint8)


def check_size(size: tuple[int, int]) -> None:
    """Check that an RGB image of ``size`` (height, width) can be made here, and read by nnU-Net afterwards.

    Raises:
        ValueError: it cannot.
    """
    pixels = size[0] * size[1]
    if pixels > MOST_PIXELS:
        raise ValueError(f"nnU-Net's reader of PNG refuses more than {MOST_PIXELS} pixels")
    check_memory(3 * pixels)


def resize_rgb(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize bilinearly, averaged over the covered area when shrinking; ``size`` is (height, width)."""
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize by nearest neighbour, so that no new value appears; ``size`` is (height, width)."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a lossless PNG; the same pixels give the same bytes."""
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)


def _read_tiff(path: Path) -> NDArray:
    check_tiff_size(path)
    with tifffile.TiffFile(path) as file:
        pixels, meaning = file.asarray(), file.pages[0].photometric
    if meaning == tifffile.PHOTOMETRIC.PALETTE:
        raise ImageProblem("has a colour palette, expected RGB or grey")
    return ~pixels if meaning == tifffile.PHOTOMETRIC.MINISWHITE else pixels


def _read_with_pil(path: Path) -> NDArray[np.uint8]:
    # PIL silently drops the lower half of 16-bit RGB, so the depth is read from the file's header
    with path.open("rb") as file:
        header = file.read(26)
    if header.startswith(PNG_SIGNATURE) and header[24:25] == b"\x10":
        raise ImageProblem("has 16 bits a channel, expected 8")
    with Image.open(path) as image:
        image.load()
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        if image.mode not in ("1", "L", "RGB", "RGBA", "LA") and not image.mode.startswith("I;16"):
            raise ImageProblem(f"has the colour mode {image.mode}, expected RGB or grey")
        return np.asarray(image)


def _kind(pixels: NDArray[np.uint8]) -> str:
    if pixels.ndim == 2:
        return "a grey image"
    names = {2: "a grey image with transparency", 3: "an RGB image", 4: "an RGBA image"}
    return names.get(pixels.shape[-1], f"an array of shape {pixels.shape}") if pixels.ndim == 3 else f"{pixels.ndim}D"
