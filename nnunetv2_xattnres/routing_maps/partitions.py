"""Ways to split a case's pixels: by class, by distance to a boundary, by right and wrong.

A partition gives each pixel a number, and says which numbers belong to which group; groups may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from nnunetv2_xattnres.evaluation.labels import Labels

EVERYWHERE, BY_CLASS, BY_DISTANCE, BY_OUTCOME = "all pixels", "class", "distance", "right and wrong"
NOWHERE = 255
EDGES = (2, 5, 10, 20)  # of the bins of distance, in pixels
BOUNDARY, AWAY = "boundary", "away from it"


@dataclass(frozen=True)
class Partition:
    """Pixels of a case by number.

    Attributes:
        name: What the pixels are split by.
        index: uint8, in the image's geometry; :data:`NOWHERE` where a pixel does not count.
        groups: Name of each group and its numbers.
    """

    name: str
    index: np.ndarray
    groups: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return 1 + max(number for numbers in self.groups.values() for number in numbers)

    def counts(self) -> np.ndarray:
        """Pixels of each number."""
        return np.bincount(self.index.ravel(), minlength=256)[: self.size]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of ``values``, an image, over the pixels of each number, in float64."""
        total = np.zeros(256)
        for part, index in zip(values, self.index, strict=True):  # slice by slice: bincount copies to float64
            total += np.bincount(index.ravel(), weights=part.ravel(), minlength=256)
        return total[: self.size]


def partitions(
    labels: Labels,
    counted: np.ndarray,
    objects: np.ndarray,
    predicted: np.ndarray | None,
    spacing: Sequence[float],
    edges: Sequence[float] = EDGES,
) -> list[Partition]:
    """All partitions of a case.

    Args:
        labels: The data set's classes.
        counted: Boolean: pixels that count.
        objects: Labels that classes and boundaries are taken from: the reference, or a prediction where there is none.
        predicted: The prediction to compare ``objects`` with, or None.
        spacing: Size of a pixel along each axis.
        edges: Of the bins of distance, in the unit of ``spacing``. The first bin is the boundary, and what lies beyond
            the second edge is away from it.
    """
    if labels.ignore is not None:
        counted = counted & (objects != labels.ignore)
    found = [
        Partition(EVERYWHERE, np.where(counted, 0, NOWHERE).astype(np.uint8), {EVERYWHERE: (0,)}),
        _by_class(labels, counted, objects),
        _by_distance(counted, objects, spacing, edges),
    ]
    return found if predicted is None else [*found, _by_outcome(counted, objects, predicted)]


def _by_class(labels: Labels, counted: np.ndarray, objects: np.ndarray) -> Partition:
    numbers = {value: number for number, value in enumerate(sorted(labels.known - {labels.ignore}))}
    index = np.full(objects.shape, NOWHERE, dtype=np.uint8)
    for value, number in numbers.items():
        index[counted & (objects == value)] = number
    groups: dict[str, tuple[int, ...]] = {"background": (0,)}
    groups |= {name: tuple(numbers[value] for value in values) for name, values in labels.foreground.items()}
    return Partition(BY_CLASS, index, groups)


def boundary_distance(objects: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of each pixel to the nearest one with another label, float32; infinite where there is one label only."""
    distance = np.full(objects.shape, np.inf, dtype=np.float32)
    shifted = objects.astype(np.uint16) + np.uint16(1)  # the background is a label as well
    boxes = find_objects(shifted)
    if sum(box is not None for box in boxes) < 2:
        return distance
    for value, box in enumerate(boxes, start=1):
        if box is not None:
            around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)  # what is not it lies there
            inside = shifted[around] == value
            distance[around][inside] = _distance_to_outside(inside, spacing)[inside]
    return distance


def _distance_to_outside(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of each pixel to the nearest one that is not ``inside``, float32.

    scipy's own distances need 80 bytes per pixel; the nearest pixels, from which they come, need 20.
    """
    nearest = distance_transform_edt(inside, sampling=spacing, return_distances=False, return_indices=True)
    grid = np.meshgrid(*map(np.arange, inside.shape[1:]), indexing="ij", sparse=True)
    distance = np.empty(inside.shape, dtype=np.float32)
    for place, row in enumerate(distance):
        steps = [place, *grid]
        row[...] = np.sqrt(
            sum(
                np.square(np.float32(length) * (nearest[axis, place] - step).astype(np.float32))
                for axis, (step, length) in enumerate(zip(steps, spacing, strict=True))
            )
        )
    return distance


def _by_distance(
    counted: np.ndarray, objects: np.ndarray, spacing: Sequence[float], edges: Sequence[float]
) -> Partition:
    steps = np.digitize(boundary_distance(objects, spacing), edges, right=True).astype(np.uint8)
    last = len(edges)
    index = np.where(objects > 0, last - steps, last + 1 + steps).astype(np.uint8)
    index[~counted] = NOWHERE
    bins = [f"up to {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"over {edges[-1]:g}"]
    groups: dict[str, tuple[int, ...]] = {f"inside, {bins[step]}": (last - step,) for step in range(last, -1, -1)}
    groups |= {f"outside, {name}": (last + 1 + step,) for step, name in enumerate(bins)}
    groups[BOUNDARY] = (last, last + 1)
    groups[AWAY] = (*range(last - 1), *range(last + 3, 2 * last + 2))
    return Partition(BY_DISTANCE, index, groups)


def _by_outcome(counted: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> Partition:
    index = np.full(reference.shape, 4, dtype=np.uint8)
    index[(reference == 0) & (predicted == 0)] = 0
    index[(reference > 0) & (predicted == reference)] = 1
    index[(reference > 0) & (predicted == 0)] = 2
    index[(reference == 0) & (predicted > 0)] = 3
    index[~counted] = NOWHERE
    groups = {
        "right": (0, 1),
        "wrong": (2, 3, 4),
        "right: background": (0,),
        "right: object": (1,),
        "wrong: missed object": (2,),
        "wrong: false object": (3,),
        "wrong: another class": (4,),
    }
    return Partition(BY_OUTCOME, index, groups)
