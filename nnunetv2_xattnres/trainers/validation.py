"""The validation score that decides which model is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn
from torch import Tensor


def mean_dice(records: Mapping[tuple[str, int], np.ndarray]) -> tuple[list[float], float]:
    """Dice of each case and class, averaged over cases, then over classes.

    Args:
        records: Case and slice to true positives, false positives and false negatives ``[3, classes]``; the slices of
            a volume are summed.

    Returns:
        The means of the classes, and their mean. Cases with a class neither in reference nor in prediction are left out
        of its mean, which is NaN if no case is left.
    """
    cases: dict[str, np.ndarray] = {}
    for (case, _), counts in records.items():
        cases[case] = cases.get(case, 0) + counts.astype(np.float64)
    with np.errstate(invalid="ignore"):
        dice = np.stack([2 * tp / (2 * tp + fp + fn) for tp, fp, fn in cases.values()])
    per_class = [
        float(np.mean(column[~np.isnan(column)])) if (~np.isnan(column)).any() else np.nan for column in dice.T
    ]
    defined = [value for value in per_class if not np.isnan(value)]
    return per_class, float(np.mean(defined)) if defined else float("nan")


def pixel_counts(logits: Tensor, target: Tensor, regions: bool, ignore_label: int | None) -> np.ndarray:
    """True positives, false positives and false negatives ``[B, 3, classes]``, without the background."""
    mask = None
    if regions:
        predicted = (logits > 0).float()
        if ignore_label is not None:
            mask, target = ~target[:, -1:].bool(), target[:, :-1]
    else:
        predicted = torch.zeros(logits.shape, device=logits.device)
        predicted.scatter_(1, logits.argmax(1, keepdim=True), 1)
        if ignore_label is not None:
            mask = target != ignore_label
            target = torch.where(mask, target, 0)
    mask = None if mask is None else mask.float()
    true_positive, false_positive, false_negative, _ = get_tp_fp_fn_tn(predicted, target, axes=[2, 3], mask=mask)
    counts = torch.stack((true_positive, false_positive, false_negative), 1)
    return (counts if regions else counts[:, :, 1:]).cpu().numpy()
