"""Whether a study trained less than the paper's recipe says: such a study must not be taken for the paper's."""

from math import prod
from typing import Any

from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.report.results import Results
from nnunetv2_xattnres.json_files import read_object
from nnunetv2_xattnres.nnunet_layout import PLANS_JSON
from nnunetv2_xattnres.plans.files import RECIPE_KEY, resolve

LABEL = "scaled-down run"
SCALED_DOWN = (
    "This is a scaled-down run of the paper's recipe (see What was run): compare its rows with each other, and not "
    "with the paper's."
)


def departures(results: Results) -> tuple[list[str], bool]:
    """How the complete cells that trained with the paper's recipe differ from it, and whether they are smaller.

    Returns:
        A line per value, such as ``epochs: 30 (the paper: 200)``, and whether epochs or iterations are fewer, or images
        are smaller by a tenth or more.
    """
    lines: dict[str, None] = {}
    smaller = False
    for item in results.complete:
        configuration = _configuration(results, item)
        if RECIPE_KEY not in configuration:
            continue
        from nnunetv2_xattnres.trainers.recipe import BASES, IMAGE_SIZES  # imports torch, which takes seconds

        trained, size = configuration[RECIPE_KEY], _image_size(configuration)
        paper, paper_size = BASES[trained["base"]].to_json(), [IMAGE_SIZES[trained["base"]]] * 2
        for name, value in paper.items():
            if trained.get(name, value) != value:
                lines[f"{name.replace('_', ' ')}: {trained[name]} (the paper: {value})"] = None
        if size != paper_size:
            lines[f"image size: {_by(size)} (the paper: {_by(paper_size)})"] = None
        smaller |= trained["epochs"] < paper["epochs"] or bool(trained.get("iterations_per_epoch"))
        smaller |= prod(size) < 0.9 * prod(paper_size)
    return list(lines), smaller


def _configuration(results: Results, item: Observation) -> dict[str, Any]:
    """What a cell's trainer wrote beside its fold; empty if it is not there."""
    path = results.study.fold_folder(item.cell).parent / PLANS_JSON
    plans = read_object(path, entries={"plans_name": str, "configurations": dict})
    return resolve(plans, item.cell.configuration) if plans else {}


def _image_size(configuration: dict[str, Any]) -> list[int]:
    return list(configuration["architecture"]["arch_kwargs"].get("input_size") or configuration["patch_size"])


def _by(size: list[int]) -> str:
    return "x".join(map(str, size))
