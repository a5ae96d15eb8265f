"""Draws many cases with outlined labels on one picture, on which shifted or swapped masks are easy to see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xattnres.visualization.overlay import to_rgb

COLUMNS = 4
# Brighter and more different than the colours of filled masks, so that two swapped classes are visible.
OUTLINES = (
    "#00e5ff",
    "#ffb000",
    "#3ddc84",
    "#ff4d4d",
    "#ff66ff",
    "#ffff4d",
    "#b388ff",
    "#4d8dff",
    "#ff8a65",
    "#b2ff59",
)


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet.

    Attributes:
        title: Text above the picture.
        image: RGB, ``(height, width, 3)``, 8 bits.
        label: ``(height, width)``, or None.
        aspect: Height of a pixel divided by its width.
    """

    title: str
    image: np.ndarray
    label: np.ndarray | None
    aspect: float = 1.0


def make_tile(
    title: str,
    image: np.ndarray,
    label: np.ndarray | None,
    spacing: Sequence[float],
    *,
    ct: bool = False,
    direction: Sequence[float] = (),
) -> Tile:
    """The slice of a case with the most classes, and among these with the most foreground.

    Without a label, it is the middle slice.

    Args:
        title: Text above the picture.
        image: ``(channels, z, y, x)``, in nnU-Net's order.
        label: ``(z, y, x)`` or None.
        spacing: Spacing of z, y, x in mm.
        ct: Use the abdominal window.
        direction: The nine direction cosines of a volume, if known: the patient is then drawn with the back down.
    """
    depth = image.shape[1] // 2
    if label is not None and label.any():
        depth = max(range(len(label)), key=lambda z: (len(np.unique(label[z])), int((label[z] > 0).sum())))
    pixels, mask = image[:, depth], None if label is None else label[depth]
    if len(direction) == 9:
        flips = (-1 if direction[4] < 0 else 1, -1 if direction[0] < 0 else 1)
        pixels = pixels[:, :: flips[0], :: flips[1]]
        mask = None if mask is None else mask[:: flips[0], :: flips[1]]
    step = max(1, min(pixels.shape[1:]) // 400)  # the same pixels of image and label, so that they stay aligned
    pixels, mask = pixels[:, ::step, ::step], None if mask is None else mask[::step, ::step]
    if label is not None and image.shape[1] > 1:
        title += f", slice {depth}"
    return Tile(title, to_rgb(pixels, ct), mask, float(spacing[1]) / float(spacing[2]))


def draw_contact_sheet(path: Path, tiles: Sequence[Tile], label_names: Mapping[int, str], title: str) -> None:
    """Write a PNG with all tiles, ``COLUMNS`` per row, outlines in the colours of their classes, and a legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    rows = -(-len(tiles) // COLUMNS)
    shape = max((tile.image.shape[0] * tile.aspect / tile.image.shape[1] for tile in tiles), default=1.0)
    figure = Figure(figsize=(3 * COLUMNS, rows * (3 * min(shape, 1.5) + 0.3) + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, tile in zip(axes.flat, tiles, strict=False):
        axis.imshow(tile.image, aspect=tile.aspect)
        axis.set_title(tile.title, fontsize=9)
        for value in [] if tile.label is None else np.unique(tile.label[tile.label > 0]):
            lines = axis.contour(tile.label == value, levels=[0.5], colors=[_colour(int(value))], linewidths=1.3)
            lines.set(path_effects=[withStroke(linewidth=2.6, foreground="black", alpha=0.6)])
    rim = [withStroke(linewidth=3.8, foreground="black", alpha=0.6)]
    entries = [
        Line2D([], [], color=_colour(value), lw=2.5, label=name, path_effects=rim)
        for value, name in label_names.items()
        if value
    ]
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 8) or 1, frameon=False)
    figure.savefig(path, format="png")


def _colour(value: int) -> str:
    return OUTLINES[(value - 1) % len(OUTLINES)]
