"""Qualitative panels as in the paper's Figure 3: image, reference, and the prediction of each configuration."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.report.results import Configuration, Results
from nnunetv2_xattnres.ablation.report.statistics import nanmean
from nnunetv2_xattnres.catalogue import STUDIES, method_title, network_title, variant_title
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.scores import find_reader, mean
from nnunetv2_xattnres.json_files import require_object
from nnunetv2_xattnres.nnunet_layout import RAW, TEST_IMAGES, TRAIN_IMAGES, variable_folder
from nnunetv2_xattnres.reading import check_whole
from nnunetv2_xattnres.visualization.overlay import overlay, resize, to_rgb

CASES = 4
WIDTH = 240  # pixels
NOT_FOUND = "image not found"
SPREAD = (
    "The cases are those at the 5th, 35th, 65th and 95th percentile of the mean Dice over all configurations, so that "
    "they are neither the best nor the worst ones by choice. "
)
LEGEND = (
    "Colour: the prediction of the first seed; white line: the reference. Below each picture: the Dice in per cent of "
    "that prediction in that case."
)


class Tile(NamedTuple):
    """One picture: its title, its caption, and RGB of shape (H, W, 3)."""

    title: str
    caption: str
    image: np.ndarray


class Panel(NamedTuple):
    """One case, from the image to every configuration's prediction."""

    case: str
    tiles: list[Tile]


def make_panels(results: Results) -> tuple[list[Panel], list[str]]:
    """The panels, and a line per panel that could not be made."""
    panels, problems = [], []
    for case in choose_cases(results):
        try:
            panels.append(make_panel(results, case))
        except (InputError, OSError, ValueError, RuntimeError, IndexError) as error:
            problems.append(f"{case}: {error}")
    if any(panel.tiles[0].caption for panel in panels):
        problems.append(f"{NOT_FOUND}: set nnUNet_raw, as for nnU-Net's own commands, and write the report again")
    return panels, problems


def choose_cases(results: Results, count: int = CASES) -> list[str]:
    """Case names at even percentiles of the mean Dice over configurations, from low to high."""
    scored = [item.scores["dice"] for item in results.configurations if item.seeds]
    if not scored:
        return []
    dice = nanmean(nanmean(np.concatenate(scored), 0), 1)
    order = [index for index in np.argsort(dice, kind="stable") if not np.isnan(dice[index])]
    if not order:
        return []
    picks = np.linspace(0.05, 0.95, count) if len(order) > count else np.linspace(0, 1, len(order))
    return [results.cases[order[index]] for index in dict.fromkeys(np.rint(picks * (len(order) - 1)).astype(int))]


def legend(results: Results) -> str:
    """How the cases were chosen and what the colours mean; a volume's Dice is that of the volume."""
    return (SPREAD if len(results.cases) > CASES else "") + LEGEND


def make_panel(results: Results, case: str) -> Panel:
    """Read a case's image, reference and predictions; of a volume, the slice with the largest reference is shown."""
    source = Path(results.study.dataset_json)
    dataset = require_object(source, "set it right in study.json", entries={"file_ending": str})
    records = [item.record for item in results.complete]
    reference = next((Path(record["reference"]) for record in records if record.get("reference")), None)
    if reference is None:
        raise OSError("cell.json names no folder of references")
    ending = dataset["file_ending"]
    path = reference / f"{case}{ending}"
    if not path.is_file():
        raise OSError(f"the reference {path} does not exist")
    reader = find_reader(dataset, path)()
    labels, header = reader.read_seg(str(path))
    place = int(np.argmax((labels[0] > 0).sum(axis=(1, 2))))
    height, width = header["spacing"][1:]
    spacing = float(height), float(width)
    truth = resize(labels[0, place], spacing, WIDTH, labels=True)
    image = read_image(results, dataset, case, records, reader)
    if image is None:
        picture = np.full((*truth.shape, 3), 40, dtype=np.uint8)
    else:
        ct = next(iter(dataset.get("channel_names", {"0": ""}).values())).upper() == "CT"
        picture = resize(to_rgb(image[:, place], ct), spacing, WIDTH)
    tiles = [Tile("image", "" if image is not None else NOT_FOUND, picture)]
    shown, last = _shown(results)
    reference_tile = Tile("reference", "", overlay(picture, filled=truth))
    if not last:
        tiles.append(reference_tile)
    for item in shown:
        found = find_prediction(results, item, f"{case}{ending}")
        if found is not None:
            observation, file = found
            predicted = resize(reader.read_seg(str(file))[0][0, place], spacing, WIDTH, labels=True)
            rows = results.rows[observation.cell.name]
            dice = mean([row["dice"] for row in rows if row["case"] == case])
            name = variant_title(item.variant)
            if len(results.networks) > 1:
                name = f"{network_title(item.network)}: {name}"
            title = method_title(item.network, item.variant) if last else name
            caption = "–" if np.isnan(dice) else f"{100 * dice:.1f}"
            tiles.append(Tile(title, caption, overlay(picture, filled=predicted, outlined=truth)))
    if last:
        tiles.append(reference_tile)
    return Panel(case, tiles)


def _shown(results: Results) -> tuple[list[Configuration], bool]:
    """The configurations in a panel, and whether the reference follows them.

    A study with a list of its own shows those, with the reference last, as the paper's Figure 3 does.
    """
    studies = {key for item in results.configurations for key in item.studies}
    wanted = [pair for study in STUDIES.values() if study.key in studies for pair in study.pictures]
    found = {(item.network, item.variant): item for item in results.configurations}
    listed = [found[pair] for pair in dict.fromkeys(wanted) if pair in found]
    return (listed, True) if listed else (results.configurations, False)


def find_prediction(results: Results, item: Configuration, file: str) -> tuple[Observation, Path] | None:
    """The first cell, by seed and fold, that has predicted the case, and the file of its prediction."""
    for seed in item.seeds:
        for observation in results.complete:
            if (observation.cell.configuration, observation.cell.seed) == (item.name, seed):
                path = results.study.cell_folder(observation.cell) / "predictions" / file
                if path.is_file():
                    return observation, path
    return None


def read_image(
    results: Results, dataset: dict[str, Any], case: str, records: list[dict[str, Any]], reader: Any
) -> np.ndarray | None:
    """The case's image (channels, Z, H, W) from nnU-Net's raw folder, or None if it is missing."""
    subset = TEST_IMAGES if any(record.get("predicted") == TEST_IMAGES for record in records) else TRAIN_IMAGES
    folders = [Path(results.study.dataset_json).parent]
    if os.environ.get(RAW):
        folders.append(variable_folder(RAW) / results.study.dataset)
    for folder in folders:
        listed = dataset.get("dataset", {}).get(case, {}).get("images") if subset == TRAIN_IMAGES else None
        if listed:
            files = [(folder / name).resolve() for name in listed]
        else:
            files = sorted((folder / subset).glob(f"{case}_????{dataset['file_ending']}"))
        if files and all(file.is_file() for file in files):
            for file in files:
                check_whole(file)
            return reader.read_images([str(file) for file in files])[0]
    return None
