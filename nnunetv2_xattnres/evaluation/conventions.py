"""Defines the scores of empty masks, and the unit of distances.

Two conventions exist, because published tables use one and clinics need the other:

==================  ===============================  ==========================
case                ``nnunet``                       ``transunet``
==================  ===============================  ==========================
both non-empty      spacing from the header          spacing 1
prediction only     Dice 0, IoU 0, HD95 NaN          Dice 1, IoU 1, HD95 0
reference only      Dice 0, IoU 0, HD95 NaN          Dice 0, IoU 0, HD95 0
both empty          all NaN                          Dice 0, IoU 0, HD95 0
==================  ===============================  ==========================

Means leave NaN out. ``transunet`` does what the evaluation behind Table 1 does, its flaws included; use it only to
compare with published numbers.
"""

from typing import NamedTuple

import numpy as np

from nnunetv2_xattnres.evaluation.metrics import hd95, overlap

NAN = float("nan")


class Scores(NamedTuple):
    """The three scores of one class in one case: Dice and IoU from 0 to 1, HD95 in mm or voxels."""

    dice: float
    iou: float
    hd95: float


class Convention(NamedTuple):
    """Scores for empty masks, and whether distances are in voxels."""

    prediction_only: Scores
    reference_only: Scores
    both_empty: Scores
    in_voxels: bool


CONVENTIONS: dict[str, Convention] = {
    "nnunet": Convention(Scores(0.0, 0.0, NAN), Scores(0.0, 0.0, NAN), Scores(NAN, NAN, NAN), in_voxels=False),
    "transunet": Convention(Scores(1.0, 1.0, 0.0), Scores(0.0, 0.0, 0.0), Scores(0.0, 0.0, 0.0), in_voxels=True),
}


def score_masks(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], convention: str = "nnunet"
) -> Scores:
    """Dice, IoU and HD95 of two boolean masks of one shape, either of which may be empty.

    Args:
        reference: Boolean mask.
        prediction: Boolean mask of the same shape.
        spacing: Millimetres per voxel along each axis; ``transunet`` ignores it.
        convention: A key of :data:`CONVENTIONS`.
    """
    rules = CONVENTIONS[convention]
    in_reference, in_prediction = bool(reference.any()), bool(prediction.any())
    if in_reference and in_prediction:
        step = (1.0,) * reference.ndim if rules.in_voxels else tuple(spacing)
        return Scores(*overlap(reference, prediction), hd95(reference, prediction, step))
    if in_prediction:
        return rules.prediction_only
    return rules.reference_only if in_reference else rules.both_empty
