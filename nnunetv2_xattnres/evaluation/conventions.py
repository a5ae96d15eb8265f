"""Defines the scores of empty masks, and the unit of distances.

Two conventions exist, because published tables use one and clinics need the other:

==================  ===============================  =================================
case                ``nnunet``                       ``transunet``
==================  ===============================  =================================
both non-empty      spacing from the header          spacing 1
prediction only     Dice, IoU, NSD 0, HD95 NaN       Dice 1, IoU 1, NSD 1, HD95 0
reference only      Dice, IoU, NSD 0, HD95 NaN       Dice 0, IoU 0, NSD 0, HD95 0
both empty          all NaN                          Dice 0, IoU 0, NSD 0, HD95 0
==================  ===============================  =================================

Means leave NaN out. With ``nnunet``, the rule ``worst`` for missing classes replaces the NaN of one empty mask by the
image's diagonal. NSD of one empty mask is 0 by its definition.

``transunet`` does what the evaluation behind Table 1 does, its flaws included; use it only to compare with published
numbers. That evaluation has no NSD: here, NSD follows its Dice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnunetv2_xattnres.evaluation.metrics import hd95, nsd, overlap, surface_distances
from nnunetv2_xattnres.evaluation.scoring import METRICS

NAN = float("nan")


class Scores(NamedTuple):
    """The scores of one class in one case: Dice, IoU and NSD from 0 to 1, HD95 in mm or voxels."""

    dice: float
    iou: float
    hd95: float
    nsd: float


class Convention(NamedTuple):
    """Scores for empty masks, and whether distances are in voxels."""

    prediction_only: Scores
    reference_only: Scores
    both_empty: Scores
    in_voxels: bool


CONVENTIONS: dict[str, Convention] = {
    "nnunet": Convention(
        Scores(0.0, 0.0, NAN, 0.0), Scores(0.0, 0.0, NAN, 0.0), Scores(NAN, NAN, NAN, NAN), in_voxels=False
    ),
    "transunet": Convention(
        Scores(1.0, 1.0, 0.0, 1.0), Scores(0.0, 0.0, 0.0, 0.0), Scores(0.0, 0.0, 0.0, 0.0), in_voxels=True
    ),
}


def score_masks(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    convention: str = "nnunet",
    *,
    metrics: Sequence[str] = METRICS,
    tolerance: float = NAN,
    worst_distance: float | None = None,
) -> Scores:
    """The scores of two boolean masks of one shape, either of which may be empty.

    Args:
        reference: Boolean mask.
        prediction: Boolean mask of the same shape.
        spacing: Millimetres per voxel along each axis; ``transunet`` ignores it.
        convention: A key of :data:`CONVENTIONS`.
        metrics: The scores to compute; all others are NaN.
        tolerance: Largest distance that NSD takes as agreement, in mm, or in voxels with ``transunet``.
        worst_distance: HD95 where exactly one mask is empty and the convention leaves it undefined; None: NaN.
    """
    rules = CONVENTIONS[convention]
    in_reference, in_prediction = bool(reference.any()), bool(prediction.any())
    if in_reference and in_prediction:
        found = dict(zip(("dice", "iou"), overlap(reference, prediction), strict=True))
        if "hd95" in metrics or "nsd" in metrics:  # both need the same distances, which take most of the time
            step = (1.0,) * reference.ndim if rules.in_voxels else tuple(spacing)
            distances = surface_distances(reference, prediction, step)
            found |= {"hd95": hd95(distances), "nsd": nsd(distances, tolerance)}
    else:
        one_sided = rules.prediction_only if in_prediction else rules.reference_only
        found = (one_sided if in_reference or in_prediction else rules.both_empty)._asdict()
        if worst_distance is not None and in_reference != in_prediction and np.isnan(found["hd95"]):
            found["hd95"] = worst_distance
    return Scores(**{name: found[name] if name in metrics else NAN for name in Scores._fields})
