"""Draws masks over images: filled classes, and the reference as an outline, with the image's true proportions."""

import base64
import io

import numpy as np
from PIL import Image

# of the classes 1, 2, …: the same on every picture
CLASS_COLOURS = np.array(
    [
        (47, 134, 209),
        (230, 159, 0),
        (0, 158, 115),
        (213, 94, 0),
        (204, 121, 167),
        (86, 180, 233),
        (240, 228, 66),
        (148, 103, 189),
        (140, 200, 75),
        (200, 60, 60),
        (120, 120, 220),
        (160, 110, 60),
        (230, 130, 180),
    ],
    dtype=np.float32,
)
OUTLINE = np.array((255, 255, 255), dtype=np.float32)


def to_rgb(image: np.ndarray, ct: bool = False) -> np.ndarray:
    """An image slice (channels, H, W) as 8-bit RGB (H, W, 3).

    Three channels with values of 0 to 255 are colours. Otherwise the first channel is shown in grey: CT in the
    abdominal window (-160 to 240 HU), everything else between its 0.5th and 99.5th percentile.
    """
    if image.shape[0] == 3 and image.min() >= 0 and 1 < image.max() <= 255:
        return np.moveaxis(image, 0, -1).astype(np.uint8)
    grey = image[0].astype(np.float32)
    low, high = (-160.0, 240.0) if ct else np.percentile(grey, (0.5, 99.5))
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def resize(array: np.ndarray, spacing: tuple[float, float], width: int, labels: bool = False) -> np.ndarray:
    """Resize (H, W) or (H, W, 3) to a width in pixels and to the height that keeps the true proportions.

    Args:
        array: 8-bit image, or label values up to 65535.
        spacing: Size of a pixel along H and W.
        width: Width of the result in pixels.
        labels: Use nearest neighbour, so that no new values appear.
    """
    height = max(1, round(width * array.shape[0] * spacing[0] / (array.shape[1] * spacing[1])))
    picture = Image.fromarray(array.astype(np.uint16 if labels else np.uint8))
    method = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((width, height), method))


def outline(labels: np.ndarray, width: int = 2) -> np.ndarray:
    """Boolean (H, W): the inner rim of every class, ``width`` pixels wide."""
    from scipy.ndimage import binary_erosion

    rim = np.zeros(labels.shape, dtype=bool)
    for value in np.unique(labels[labels > 0]):
        mask = labels == value
        rim |= mask & ~binary_erosion(mask, iterations=width, border_value=1)
    return rim


def overlay(
    image: np.ndarray, filled: np.ndarray | None = None, outlined: np.ndarray | None = None, opacity: float = 0.5
) -> np.ndarray:
    """Paint class masks over an RGB image (H, W, 3): ``filled`` in colour, ``outlined`` as a white line with a shadow.

    All of them have the same height and width; pixels of label 0 stay unchanged.
    """
    result = image.astype(np.float32)
    if filled is not None and filled.any():
        inside = filled > 0
        colours = CLASS_COLOURS[(filled[inside].astype(int) - 1) % len(CLASS_COLOURS)]
        result[inside] = (1 - opacity) * result[inside] + opacity * colours
    if outlined is not None and outlined.any():
        from scipy.ndimage import binary_dilation

        line = outline(outlined, 1)
        result[binary_dilation(line, iterations=1)] *= 0.35  # a white line needs a shadow on a white background
        result[line] = OUTLINE
    return np.clip(result, 0, 255).astype(np.uint8)


def data_uri(image: np.ndarray, quality: int = 85) -> str:
    """An RGB image as a JPEG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
