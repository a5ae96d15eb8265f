"""Scores one case: reads both masks with nnU-Net's own readers, compares their geometry, scores every class."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from nnunetv2_xattnres.errors import few
from nnunetv2_xattnres.evaluation.conventions import score_masks
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.evaluation.scoring import METRICS
from nnunetv2_xattnres.reading import check_whole, differing_geometry, exactly, stop_without_memory

Box = tuple[slice, ...]


class Task(NamedTuple):
    """The input of a worker for one case.

    ``score`` is False if only the checks are needed. ``tolerance`` is that of NSD per class, in the unit of distances.
    ``worst`` says whether HD95 is the image's diagonal where only one side has a class.
    """

    case: str
    reference: Path
    prediction: Path
    reader: type
    labels: Labels
    convention: str
    score: bool
    metrics: tuple[str, ...] = METRICS
    tolerance: Mapping[str, float] = {}
    worst: bool = False


class Outcome(NamedTuple):
    """One row per class (``case``, ``label`` and each metric), and the problems and notes."""

    rows: list[dict[str, Any]]
    problems: list[str]
    notes: list[str]


def read_mask(path: Path, reader: type) -> tuple[np.ndarray, tuple[float, ...], dict[str, Any]]:
    """Integer labels, spacing along each axis, and the header's properties.

    Axes of length 1 are dropped, with their spacing: nnU-Net stores a 2D image as a volume of one slice, in which
    every voxel would be a border voxel. Raises ValueError if the file is no label image, or is cut off.
    """
    check_whole(path)
    array, properties = reader().read_seg(str(path))
    if array.shape[0] != 1:
        raise ValueError(f"has {array.shape[0]} channels, a mask has one")
    labels = array[0].astype(np.int32)
    if not np.array_equal(labels, array[0]):
        broken = array[0][labels != array[0]][:3]
        raise ValueError(f"holds values that are not whole numbers: {', '.join(exactly(value) for value in broken)}")
    kept = [axis for axis, length in enumerate(labels.shape) if length > 1] or [labels.ndim - 1]
    spacing = tuple(float(properties["spacing"][axis]) for axis in kept)
    return labels.reshape([labels.shape[axis] for axis in kept]), spacing, properties


def unknown_values(labels: np.ndarray, known: frozenset[int]) -> list[int]:
    """The values of an image that the data set does not name."""
    if int(labels.min()) < 0 or int(labels.max()) > 100_000:  # probably no label image: sort, although it is slow
        present = set(np.unique(labels).tolist())
    else:
        present = {value for value, box in enumerate(find_objects(labels), start=1) if box is not None}
    return sorted(present - known)


def union_box(boxes: list[Box | None]) -> Box | None:
    """The smallest box around all boxes, or None without any."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return tuple(
        slice(min(box[axis].start for box in found), max(box[axis].stop for box in found))
        for axis in range(len(found[0]))
    )


def run_case(task: Task) -> Outcome:
    """Read, check and score one case; problems are returned, not raised, so that one message can list all."""
    masks, spacings, headers, problems = [], [], [], []
    for side, path in (("reference", task.reference), ("prediction", task.prediction)):
        try:
            mask, spacing, header = read_mask(path, task.reader)
        except Exception as error:  # each reader raises the errors of its library
            stop_without_memory(error)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            problems.append(f"{task.case}: {side} {path.name} cannot be used: {reason}")
            continue
        if unknown := unknown_values(mask, task.labels.known):
            values = few([str(value) for value in unknown])
            problems.append(f"{task.case}: {side} holds values that the data set does not name: {values}")
        masks.append(mask)
        spacings.append(spacing)
        headers.append(header)
    if len(masks) == 2:
        if masks[0].shape != masks[1].shape:
            problems.append(f"{task.case}: shape {masks[0].shape} in the reference, {masks[1].shape} in the prediction")
        elif not np.allclose(spacings[0], spacings[1], rtol=1e-3, atol=1e-5):
            problems.append(f"{task.case}: spacing {spacings[0]} in the reference, {spacings[1]} in the prediction")
    if problems or not task.score:
        return Outcome([], problems, [])
    notes = [f"{task.case}: {name} differs between reference and prediction" for name in differing_geometry(*headers)]
    return Outcome(score_case(task, masks[0], masks[1], spacings[0]), [], notes)


def score_case(
    task: Task, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Scores of every class, each computed within the bounding box of both its masks."""
    if task.labels.ignore is not None:
        ignored = reference == task.labels.ignore
        reference, prediction = (np.where(ignored, 0, mask) for mask in (reference, prediction))
    diagonal = math.hypot(*(length * step for length, step in zip(reference.shape, spacing, strict=True)))
    boxes = [find_objects(mask) for mask in (reference, prediction)]
    rows = []
    for name, values in task.labels.foreground.items():
        box = union_box([found[value - 1] for found in boxes for value in values if 0 < value <= len(found)])
        if box is None:
            pair = [np.zeros((1,) * len(spacing), dtype=bool)] * 2
        else:
            pair = [np.logical_or.reduce([mask[box] == value for value in values]) for mask in (reference, prediction)]
        scores = score_masks(
            pair[0],
            pair[1],
            spacing,
            task.convention,
            metrics=task.metrics,
            tolerance=task.tolerance.get(name, math.nan),
            worst_distance=diagonal if task.worst else None,
        )
        rows.append({"case": task.case, "label": name, **{metric: getattr(scores, metric) for metric in task.metrics}})
    return rows
