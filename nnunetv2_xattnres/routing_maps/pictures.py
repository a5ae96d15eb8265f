"""Pictures of one slice of a case: image, reference, prediction, and which entry wins where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

from nnunetv2_xattnres.architectures.readers import Reader
from nnunetv2_xattnres.outputs import written
from nnunetv2_xattnres.routing_maps.analysis import CaseSlice
from nnunetv2_xattnres.routing_maps.colours import rgb
from nnunetv2_xattnres.routing_maps.figures import bare
from nnunetv2_xattnres.visualization.overlay import outline, overlay, resize, to_rgb
from nnunetv2_xattnres.visualization.svg import STYLE

PIXELS = 260  # width of a picture
COLUMNS = 4
INCHES = 2.0


class Tile(NamedTuple):
    """A picture, RGB ``(H, W, 3)``, and its title."""

    title: str
    image: np.ndarray


def tiles(shown: CaseSlice, readers: Sequence[Reader], colours: Mapping[str, str], ct: bool) -> list[Tile]:
    """Image, reference, prediction, and a map of each reader that names the entry with the largest weight per pixel.

    On the maps, the line is the boundary of the reference, or of the prediction where there is none.
    """
    picture = resize(to_rgb(shown.image, ct), shown.spacing, PIXELS)
    prediction = resize(shown.prediction, shown.spacing, PIXELS, labels=True)
    reference = None if shown.reference is None else resize(shown.reference, shown.spacing, PIXELS, labels=True)
    found = [Tile("image", picture)]
    if reference is not None:
        found.append(Tile("reference", overlay(picture, filled=reference)))
    found.append(Tile("prediction", overlay(picture, filled=prediction, outlined=reference)))
    line = outline(prediction if reference is None else reference, 1)
    for reader in readers:
        winner = shown.weights[reader.module].argmax(0).astype(np.uint8)
        palette = np.array([rgb(colours[entry]) for entry in reader.entries], dtype=np.uint8)
        painted = palette[resize(winner, shown.spacing, PIXELS, labels=True)]
        painted[line] = (255, 255, 255)
        found.append(Tile(f"{reader.stage}: largest weight", painted))
    return found


def write_case(
    path: Path,
    shown: CaseSlice,
    pictures: Sequence[Tile],
    readers: Sequence[Reader],
    colours: Mapping[str, str],
    classes: Mapping[str, str],
) -> None:
    """All tiles of a case as a PNG, with the colours of entries and, below them, of classes."""
    from matplotlib.patches import Patch

    rows = -(-len(pictures) // COLUMNS)
    height = INCHES * pictures[0].image.shape[0] / pictures[0].image.shape[1] + 0.25
    used = [entry for entry in colours if any(entry in reader.entries for reader in readers)]
    legends = (("largest weight", {entry: colours[entry] for entry in used}), ("classes", classes))
    lines = max(1 + -(-len(items) // 3) for _, items in legends)
    figure = _new(INCHES * COLUMNS, height * rows + 0.5 + 0.22 * lines)
    with matplotlib.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        for number, tile in enumerate(pictures, start=1):
            axes = figure.add_subplot(rows, COLUMNS, number)
            axes.imshow(tile.image)
            axes.set_title(tile.title, fontsize=8)
            bare(axes)
        figure.suptitle(slice_title(shown), fontsize=10)
        for place, (title, items) in zip(("outside lower left", "outside lower right"), legends, strict=True):
            figure.legend(
                handles=[Patch(color=colour, label=name) for name, colour in items.items()],
                title=title, loc=place, ncols=3, fontsize=8, title_fontsize=8, frameon=False,
            )  # fmt: skip
        with written(path) as partial:
            figure.savefig(partial, dpi=130)


def write_heat_maps(path: Path, shown: CaseSlice, reader: Reader) -> None:
    """The weights of every entry of one reader as a PNG, on one scale from 0 to the largest weight in the slice."""
    weights = shown.weights[reader.module]
    top = float(weights.max())
    rows = -(-len(weights) // COLUMNS)
    height = INCHES * weights.shape[1] * shown.spacing[0] / (weights.shape[2] * shown.spacing[1]) + 0.25
    figure = _new(INCHES * COLUMNS + 0.7, height * rows + 0.4)
    with matplotlib.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for axes, entry, values in zip(grid.flat, reader.entries, weights, strict=False):
            axes.set_visible(True)
            image = axes.imshow(
                values, cmap="cividis", vmin=0, vmax=top, aspect=shown.spacing[0] / shown.spacing[1], rasterized=True
            )
            axes.set_title(entry, fontsize=8)
            bare(axes)
        figure.colorbar(image, ax=grid, label="weight", shrink=0.8)
        figure.suptitle(f"{slice_title(shown)}, {reader.stage}: weight of each entry", fontsize=10)
        with written(path) as partial:
            figure.savefig(partial, dpi=130)


def slice_title(shown: CaseSlice) -> str:
    """The case, and the slice of a volume, counted from 0."""
    return shown.case if shown.place is None else f"{shown.case}, slice {shown.place}"


def _new(width: float, height: float):  # noqa: ANN202  # matplotlib is imported where it draws
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
