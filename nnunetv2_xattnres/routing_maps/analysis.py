"""One run over all cases: maps are written and summed, one stage at a time; pictures are kept of one slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnunetv2_xattnres.architectures.readers import Reader, find_readers, select
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.routing_maps.files import affine_of, map_file, map_name
from nnunetv2_xattnres.routing_maps.knock_out import knock_out_dice
from nnunetv2_xattnres.routing_maps.model import Case, predict, preprocess, read_labels
from nnunetv2_xattnres.routing_maps.partitions import EDGES, EVERYWHERE, Partition, partitions
from nnunetv2_xattnres.routing_maps.restore import check_sum, known, restore
from nnunetv2_xattnres.routing_maps.summary import StageSums
from nnunetv2_xattnres.routing_maps.window import average_weights, sample_tile

TOGETHER = 128 * 2**20  # bytes of maps up to which several stages share a pass through the network


@dataclass
class CaseSlice:
    """One slice of a case, for pictures.

    Attributes:
        case: Its name.
        place: Index of the slice along the first axis; None for a 2D image.
        image: ``(channels, H, W)``, as nnU-Net reads it.
        reference: Labels ``(H, W)``, or None.
        prediction: The same of nnU-Net's prediction.
        spacing: Of H and W.
        weights: Module path to ``[K+1, H, W]``.
    """

    case: str
    place: int | None
    image: np.ndarray
    reference: np.ndarray | None
    prediction: np.ndarray
    spacing: tuple[float, float]
    weights: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Analysis:
    """What a run gathers.

    Attributes:
        readers: The stages that were read.
        labels: The data set's classes.
        unit: Of distances: ``pixels`` or ``mm``.
        edges: Of the bins of distance.
        groups: Partition to its groups, and the numbers of each.
        names: The cases.
        cases: Module path to sums, for each case.
        files: Case to stage to the name of its file.
        dice: Dice of each class in each case, and for each reader without each entry, where that was asked for.
    """

    readers: list[Reader]
    labels: Labels
    unit: str
    edges: tuple[float, ...]
    names: list[str] = field(default_factory=list)
    groups: dict[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    cases: list[dict[str, StageSums]] = field(default_factory=list)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    dice: list[tuple[np.ndarray, dict[str, np.ndarray]]] = field(default_factory=list)


def begin(predictor: Any, first: Case, stages: Sequence[str] | None) -> Analysis:
    """The readers of a model, seen on the first case, and the unit of distances.

    Raises:
        InputError: the model has no XAttnRes, or no stage of that name.
    """
    data, _ = preprocess(predictor, first)
    network = predictor.network.to(predictor.device).eval()
    readers = select(find_readers(network, sample_tile(predictor, data)), stages)
    natural = predictor.plans_manager.image_reader_writer_class.__name__ == "NaturalImage2DIO"  # png has no spacing
    pixel = 1.0 if natural else float(min(predictor.configuration_manager.spacing[-2:]))
    edges = tuple(float(f"{edge * pixel:.2g}") for edge in EDGES)
    labels = Labels.parse(predictor.dataset_json, "the model's dataset.json")
    return Analysis(readers, labels, "pixels" if natural else "mm", edges)


def analyse_case(
    analysis: Analysis,
    predictor: Any,
    case: Case,
    predictions: Path,
    maps: Path,
    *,
    place: int | None = None,
    knock_out: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> CaseSlice:
    """Predict a case, write its maps, add it to the analysis, and return the slice for its picture.

    Args:
        analysis: What is added to.
        predictor: An initialised ``nnUNetPredictor``.
        case: The case.
        predictions: Folder to write nnU-Net's prediction to.
        maps: Folder to write to.
        place: Slice along the first axis; by default the one with most of the reference, or of the prediction.
        knock_out: Predict again without each entry of each reader, which needs a reference.
        progress: Called after each stage.

    Raises:
        InputError: a file cannot be used, or the slice does not exist.
    """
    data, properties = preprocess(predictor, case)
    inside = known(predictor, properties)
    prediction = read_labels(predictor, predict(predictor, case, data, properties, predictions), inside.shape)
    reference = read_labels(predictor, case.reference, inside.shape) if case.reference else None
    objects = prediction if reference is None else reference
    shown = _slice(predictor, case, objects, place)
    # copies: a view would keep the whole volume in memory
    shown.reference = None if reference is None else reference[shown.place or 0].copy()
    shown.prediction = prediction[shown.place or 0].copy()
    spacing = [float(length) for length in properties["spacing"]]
    parts = partitions(
        analysis.labels, inside, objects, None if reference is None else prediction, spacing, analysis.edges
    )
    shown.spacing = (spacing[1], spacing[2])
    if knock_out and reference is not None:
        analysis.dice.append(knock_out_dice(predictor, data, properties, reference, analysis.labels, analysis.readers))
    del reference, prediction, objects
    sums: dict[str, StageSums] = {}
    analysis.files[case.name] = {}
    affine = affine_of(properties)
    for group in _groups(analysis.readers, int(np.prod(data.shape[1:]))):
        weights = average_weights(predictor, data, group)
        for reader in group:
            path = maps / map_name(case.name, reader.stage, affine)
            with map_file(path, reader.entries, inside.shape, affine) as file:
                sums[reader.module], shown.weights[reader.module] = _through(
                    weights.pop(reader.module), reader, predictor, properties, parts, file, shown.place
                )
            analysis.files[case.name][reader.stage] = path.name
            progress()
    analysis.groups = {partition.name: partition.groups for partition in parts}
    analysis.names.append(case.name)
    analysis.cases.append(sums)
    return shown


def _groups(readers: Sequence[Reader], pixels: int) -> list[list[Reader]]:
    """Readers whose maps are made together: one by one where they are large, for memory."""
    groups: list[list[Reader]] = []
    room = 0
    for reader in readers:
        size = 4 * pixels * len(reader.entries)
        if groups and size <= room:
            groups[-1].append(reader)
            room -= size
        else:
            groups.append([reader])
            room = TOGETHER - size
    return groups


def _through(
    channels: list[Tensor],
    reader: Reader,
    predictor: Any,
    properties: dict[str, Any],
    parts: Sequence[Partition],
    file: Any,
    place: int | None,
) -> tuple[StageSums, np.ndarray]:
    """Restore, write and sum the maps of a stage one after another; each is freed before the next one."""
    sums: dict[str, list[np.ndarray]] = {partition.name: [] for partition in parts}
    everywhere = next(partition for partition in parts if partition.name == EVERYWHERE)
    entropy, total = 0.0, np.zeros(())
    slices: list[np.ndarray] = []
    channels.reverse()
    while channels:
        restored = restore(channels.pop(), predictor, properties, outside=1 / len(reader.entries))
        file.add(restored)
        total = np.add(total, restored, out=total) if total.shape else restored.copy()
        slices.append(restored[place or 0].copy())
        for partition in parts:
            sums[partition.name].append(partition.sums(restored))
        np.clip(restored, 1e-12, 1, out=restored)
        restored *= -np.log(restored)
        entropy += float(everywhere.sums(restored).sum())
    check_sum(total, reader.stage)
    counts = {partition.name: partition.counts() for partition in parts}
    pixels = max(1, int(counts[EVERYWHERE].sum()))
    return (
        StageSums(
            {name: np.stack(values, axis=1) for name, values in sums.items()},
            counts,
            entropy / pixels / float(np.log(len(reader.entries))),
        ),
        np.stack(slices),
    )


def _slice(predictor: Any, case: Case, objects: np.ndarray, place: int | None) -> CaseSlice:
    slices = objects.shape[0]
    if place is not None and not 0 <= place < slices:
        raise InputError(f"--slice {place} is not in {case.name}: it has slices 0 to {slices - 1}.")
    if place is None:
        place = int(np.argmax((objects > 0).sum(axis=(1, 2))))
    image, _ = predictor.plans_manager.image_reader_writer_class().read_images(list(case.images))
    empty = np.zeros(objects.shape[1:], dtype=objects.dtype)
    return CaseSlice(case.name, place if slices > 1 else None, image[:, place].copy(), None, empty, (1.0, 1.0))
