"""Draws the demo's picture: image, reference and prediction of a few test frames, from worst to best."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws to a file: a screen may be missing

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

REFERENCE_COLOUR, PREDICTION_COLOUR = (
    "#00e5ff",
    "#ffe600",
)  # both are easy to see on red mucosa, also for colour-blind readers


def draw_picture(path: Path, images: Path, references: Path, predictions: Path, dice: dict[str, float]) -> None:
    """Write a PNG with one row per frame.

    Args:
        path: The file to write.
        images: Folder of ``CASE_0000.png``, RGB.
        references: Folder of ``CASE.png``, 1 where a polyp is.
        predictions: Folder of ``CASE.png``, the predicted masks.
        dice: Case name to Dice, for every frame to show and in this order.
    """
    figure, axes = plt.subplots(len(dice), 3, figsize=(7.5, 2.55 * len(dice) + 0.35), squeeze=False, dpi=120)
    for row, (case, value) in zip(axes, dice.items(), strict=True):
        image = np.asarray(Image.open(images / f"{case}_0000.png"))
        reference = np.asarray(Image.open(references / f"{case}.png"))
        prediction = np.asarray(Image.open(predictions / f"{case}.png"))
        for axis in row:
            axis.imshow(image)
            axis.set(xticks=[], yticks=[])
        _outline(row[1], reference, REFERENCE_COLOUR)
        _outline(row[2], prediction, PREDICTION_COLOUR)
        row[0].set_ylabel(f"{case}\nDice {value:.2f}", fontsize=9)
    for axis, title in zip(axes[0], ("image", "reference", "prediction"), strict=True):
        axis.set_title(title, fontsize=11)
    figure.tight_layout(pad=0.6)
    figure.savefig(path)
    plt.close(figure)


def _outline(axis: plt.Axes, mask: np.ndarray, colour: str) -> None:
    """Draw the outline of a mask, or a text for an empty mask, which would look like a mistake."""
    if mask.any():
        padded = np.pad(mask > 0, 1)  # closes outlines at the border
        extent = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
        axis.contour(*extent, padded, levels=[0.5], colors=colour, linewidths=1.6)
        axis.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))
    else:
        axis.text(0.5, 0.06, "nothing found", transform=axis.transAxes, ha="center", color=colour, fontsize=9)
