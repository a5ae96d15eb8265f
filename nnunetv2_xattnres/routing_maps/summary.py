"""From the cases' sums to means with intervals, the entropy, and the test of the paper's claim.

Every case counts the same: a mean is first taken over the pixels of a case, then over the cases. The interval is a
bootstrap over cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nnunetv2_xattnres.ablation.report.statistics import bootstrap_intervals, nanmean
from nnunetv2_xattnres.architectures.readers import Reader
from nnunetv2_xattnres.routing_maps.partitions import AWAY, BOUNDARY, BY_DISTANCE

Groups = Mapping[str, Mapping[str, tuple[int, ...]]]  # partition to group to the numbers of its pixels
LEAST_CASES = 6  # all differences of fewer cases have one sign by chance in more than 5 % of the samples
HELD, REVERSED, UNDECIDED = "held", "did not hold", "these cases cannot decide"


@dataclass
class StageSums:
    """What is kept of one stage's maps in one case.

    Attributes:
        sums: Partition to the sum of weights of each of its numbers and each entry, ``[numbers, K+1]``.
        counts: Partition to the pixels of each number.
        entropy: Mean over the pixels of the weights' entropy, from 0 (one entry has all) to 1 (uniform).
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    entropy: float


class Estimate(NamedTuple):
    """A mean over cases, and its 95 % bootstrap interval (NaN with fewer than two cases)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Split:
    """Mean weights of one stage in one group of pixels.

    Attributes:
        by: What pixels are split by.
        group: The group.
        reader: The stage's reader.
        weights: One estimate for each entry; the means add up to 1.
        cases: Cases that have such pixels.
        pixels: All of them together.
    """

    by: str
    group: str
    reader: Reader
    weights: list[Estimate]
    cases: int
    pixels: int


@dataclass(frozen=True)
class Claim:
    """Whether boundaries listen to higher resolutions than what lies away from them.

    Attributes:
        stage: The stage, or "" for the mean over the stages.
        difference: Boundary minus away, of the mean log2 stride of what is listened to: -1 means twice the resolution.
        reading: Held, did not hold, or not decided.
        cases: Cases with both kinds of pixels.
    """

    stage: str
    difference: Estimate
    reading: str
    cases: int


def estimates(values: np.ndarray) -> list[Estimate]:
    """Mean and interval of each column of (cases, columns); NaN is left out."""
    means = nanmean(values, 0)
    low, high = bootstrap_intervals(values)
    return [Estimate(*map(float, row)) for row in zip(means, low, high, strict=True)]


def case_means(
    cases: Sequence[Mapping[str, StageSums]], module: str, by: str, numbers: Sequence[int]
) -> tuple[np.ndarray, int]:
    """Mean weights of a group in every case, (cases, K+1), NaN where a case has no such pixel; and all its pixels."""
    sums = np.stack([case[module].sums[by][list(numbers)].sum(0) for case in cases])
    counts = np.array([case[module].counts[by][list(numbers)].sum() for case in cases])
    with np.errstate(invalid="ignore"):
        return sums / np.where(counts > 0, counts, np.nan)[:, None], int(counts.sum())


def splits(readers: Sequence[Reader], groups: Groups, cases: Sequence[Mapping[str, StageSums]]) -> list[Split]:
    """All groups of all partitions, for each reader; groups that no case has are left out."""
    found = []
    for by, members in groups.items():
        for reader in readers:
            for group, numbers in members.items():
                values, pixels = case_means(cases, reader.module, by, numbers)
                if pixels:
                    present = int((~np.isnan(values[:, 0])).sum())
                    found.append(Split(by, group, reader, estimates(values), present, pixels))
    return found


def entropies(readers: Sequence[Reader], cases: Sequence[Mapping[str, StageSums]]) -> list[Estimate]:
    """The entropy of each reader's weights, as a part of its largest value."""
    return estimates(np.array([[case[reader.module].entropy for reader in readers] for case in cases]))


def decoders(readers: Sequence[Reader]) -> list[Reader]:
    """The readers of decoder stages, or all where no stage has such a name."""
    return [reader for reader in readers if reader.stage.startswith("decoder")] or list(readers)


def claims(
    readers: Sequence[Reader], groups: Groups, cases: Sequence[Mapping[str, StageSums]]
) -> tuple[Claim, list[Claim]]:
    """The claim over all decoder stages together, and for each stage."""
    differences = {}
    for reader in readers:
        near, far = (
            case_means(cases, reader.module, BY_DISTANCE, groups[BY_DISTANCE][name])[0] for name in (BOUNDARY, AWAY)
        )
        differences[reader.stage] = (near - far) @ np.log2(reader.strides)
    together = nanmean(np.stack([differences[reader.stage] for reader in decoders(readers)]), 0)
    return _claim("", together), [_claim(stage, values) for stage, values in differences.items()]


def _claim(stage: str, values: np.ndarray) -> Claim:
    (difference,) = estimates(values[:, None])
    cases, reading = int((~np.isnan(values)).sum()), UNDECIDED
    if cases >= LEAST_CASES and difference.high < 0:
        reading = HELD
    elif cases >= LEAST_CASES and difference.low > 0:
        reading = REVERSED
    return Claim(stage, difference, reading, cases)
