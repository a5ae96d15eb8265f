"""The score that the paper keeps a model by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def mean_dice(records: Mapping[tuple[str, int], np.ndarray]) -> tuple[list[float], float]:
    """Dice of each case and class, meaned over cases, then over classes.

    Args:
        records: Case and slice to true positives, false positives and false negatives ``[3, classes]``; the slices of
            a volume count together.

    Returns:
        The means of the classes, and their mean. A class that a case has neither in reference nor in prediction is
        left out of its mean; NaN where nothing is left.
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
