"""Compares two configurations, given a few seeds and a set of cases.

The scores of a configuration are an array (seeds, cases, labels), NaN where a score is not defined. For each seed, the
mean is over cases, then over labels. The summary is the mean and the standard deviation of these over the seeds.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
CONFIDENCE = 0.95
ROUNDING = 1e-9  # rounding makes equal means differ by less than this


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; ``sd`` is NaN for a single seed."""

    mean: float
    sd: float
    seeds: int


class Difference(NamedTuple):
    """Variant minus baseline, in the metric's own unit.

    Attributes:
        value: Mean paired difference: scores are averaged over seeds, then over cases, then over labels.
        low: Lower end of the bootstrap interval over cases, NaN with fewer than two cases.
        high: Its upper end.
        cases: Cases that are compared.
        left_out: Number of scores that some runs have and others lack: they count in the means, but not here.
        seed_spread: Standard deviation of the difference between two single runs, NaN with a single seed.
        seed_p: p value of Welch's t test on the seeds' means, NaN with a single seed or without any spread.
        reading: The result in words.
    """

    value: float
    low: float
    high: float
    cases: int
    left_out: int
    seed_spread: float
    seed_p: float
    reading: str


def seed_means(scores: np.ndarray) -> np.ndarray:
    """Mean over cases, then over labels, of an array (seeds, cases, labels): one number per seed."""
    return nanmean(nanmean(scores, 1), 1)


def spread(scores: np.ndarray) -> Spread:
    """Mean and standard deviation over the seeds of an array (seeds, cases, labels)."""
    values = seed_means(scores)
    values = values[~np.isnan(values)]
    if not values.size:
        return Spread(float("nan"), float("nan"), 0)
    return Spread(float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else float("nan"), values.size)


def paired_difference(baseline: np.ndarray, variant: np.ndarray, higher_is_better: bool = True) -> Difference:
    """Compare two configurations case by case.

    The interval is a bootstrap over cases: it shows how much the difference depends on the tested patients or images.
    It does not include the randomness of training. Therefore the reading also uses the seeds: a difference that is at
    most the spread of single runs is "within seed spread". It is "better" or "worse" only if the interval excludes 0
    and the seeds by themselves are significant as well (Welch's t test at 5 %).

    Only scores that every run of both configurations has are compared; the others are counted and left out. A run that
    does not find a class has no HD95 for it. If the reference does not have the class either, it has no Dice.

    Args:
        baseline: Array (seeds, cases, labels).
        variant: Array (seeds, cases, labels) with the same cases and labels, and any number of seeds.
        higher_is_better: False for distances.
    """
    scored = ~np.isnan(np.concatenate([baseline, variant]))
    compared = scored.all(axis=0)
    used = compared.any(axis=1)
    cases, left_out = int(used.sum()), int((scored.any(axis=0) & ~compared).sum())
    if not cases:
        nan = float("nan")
        return Difference(nan, nan, nan, 0, left_out, nan, nan, "no case in common")
    baseline, variant = (np.where(compared, scores, np.nan)[:, used] for scores in (baseline, variant))
    differences = variant.mean(axis=0) - baseline.mean(axis=0)
    value = float(nanmean(nanmean(differences, 0), 0))
    low, high = bootstrap_interval(differences)
    both = spread(baseline), spread(variant)
    seed_spread = float(np.hypot(both[0].sd, both[1].sd))
    seed_p = _seed_test(seed_means(baseline), seed_means(variant)) if seed_spread > ROUNDING else float("nan")
    reading = _read(value, low, high, seed_spread, seed_p, higher_is_better)
    if left_out:
        reading += f" ({left_out} left out)"
    return Difference(value, low, high, cases, left_out, seed_spread, seed_p, reading)


def bootstrap_interval(differences: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval of the mean over cases, then labels, of an array (cases, labels); cases are resampled.

    The random numbers start from a fixed seed, so the same data give the same interval.
    """
    if len(differences) < 2:
        return float("nan"), float("nan")
    low, high = _interval(np.concatenate([nanmean(means, 1) for means in _resampled(differences, resamples)]))
    return float(low), float(high)


def bootstrap_intervals(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """The same for each column of (cases, columns) by itself: lower and upper ends, NaN where a column has no value."""
    missing = np.full(values.shape[1], np.nan)
    if len(values) < 2:
        return missing, missing
    low, high = _interval(np.concatenate(list(_resampled(values, resamples))))
    single = (~np.isnan(values)).sum(0) < 2
    return np.where(single, np.nan, low), np.where(single, np.nan, high)


def _resampled(values: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """Means over cases of (cases, columns) with cases drawn again, (resamples, columns), in parts."""
    cases = len(values)
    rng = np.random.default_rng(0)
    valid = ~np.isnan(values)
    filled = np.where(valid, values, 0.0)
    for start in range(0, resamples, 1000):  # in parts: a few thousand cases would need gigabytes at once
        size = min(1000, resamples - start)
        counts = rng.multinomial(cases, np.full(cases, 1 / cases), size=size).astype(float)
        drawn = counts @ valid
        with np.errstate(invalid="ignore", divide="ignore"):
            yield np.where(drawn > 0, (counts @ filled) / drawn, np.nan)


def _interval(means: np.ndarray) -> np.ndarray:
    """Lower and upper end of the percentile interval along the first axis."""
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a column without any value
        return np.nanpercentile(means, [tail, 100 - tail], axis=0)


def _seed_test(baseline: np.ndarray, variant: np.ndarray) -> float:
    return float(stats.ttest_ind(variant, baseline, equal_var=False, nan_policy="omit").pvalue)


def _read(value: float, low: float, high: float, seed_spread: float, seed_p: float, higher_is_better: bool) -> str:
    if np.isnan(seed_spread):
        return "single run: the seed spread is unknown"
    if seed_spread <= ROUNDING:  # networks that learned nothing all predict the same: nothing, or everything
        return "no spread: all seeds score the same"
    if abs(value) <= seed_spread:
        return "within seed spread"
    if np.isnan(low) or low <= 0 <= high:
        return "beyond seed spread, but the interval includes 0"
    if not seed_p < 1 - CONFIDENCE:
        return "beyond seed spread, but too few seeds to tell"
    return "better" if (value > 0) == higher_is_better else "worse"


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """``np.nanmean`` without its warning for a class that never occurs; the mean of such a class is NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)
