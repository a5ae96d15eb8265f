"""A study that trained less than the paper's recipe says so wherever its numbers are."""

import json
from pathlib import Path

import pytest
from report_study import make_study

from nnunetv2_xattnres.ablation.report import write_report
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.plans.files import RECIPE_KEY as KEY
from nnunetv2_xattnres.trainers.recipe import Recipe

PLANS = Path(__file__).parents[1] / "former" / "nnUNetPlans.json"


def report(folder, overrides, size):
    """The Markdown and the page of a study whose cells trained with the paper's recipe, changed."""
    make_study(folder, seeds=(0,))
    study = Study.load(folder / "study")
    for cell in study.cells:
        parent = {**json.loads(PLANS.read_text())["configurations"]["2d"], "patch_size": size}
        variant = {"inherits_from": "2d", KEY: Recipe.choose(1, overrides, "2d").to_json()}
        plans = {"plans_name": "x", "configurations": {"2d": parent, cell.configuration: variant}}
        (study.fold_folder(cell).parent / "plans.json").write_text(json.dumps(plans))
    page = write_report(study.folder)
    return (page.parent / "report.md").read_text("utf-8"), page.read_text("utf-8")


def test_every_title_and_caption_says_that_a_run_is_scaled_down(tmp_path):
    text, page = report(tmp_path, {"epochs": 30, "scales": [1.0]}, [128, 128])
    titles = [line for line in text.splitlines() if line.startswith(("# ", "### ")) and "__" not in line]
    assert len(titles) > 2 and all(title.endswith(", scaled-down run") for title in titles)
    lines = text.splitlines()
    captions = [lines[index + 2] for index, line in enumerate(lines) if "(figures/bars" in line]
    assert captions and all(caption.startswith("Scaled-down run. ") for caption in captions)
    assert "not with the paper's" in text and page.count("caled-down run") >= len(titles) + len(captions)
    assert (
        "epochs: 30 (the paper: 200); scales: [1.0] (the paper: [0.75, 1.0, 1.25]); image size: 128x128 (the paper: "
        "352x352)" in text
    )


@pytest.mark.parametrize(
    ("overrides", "size", "smaller"),
    [
        ({}, [352, 352], False), ({}, [320, 384], False), ({"learning_rate": 1e-3}, [352, 352], False),
        ({}, [128, 128], True), ({"epochs": 199}, [352, 352], True), ({"iterations_per_epoch": 5}, [352, 352], True),
    ],
)  # fmt: skip
def test_only_a_smaller_run_is_scaled_down(tmp_path, overrides, size, smaller):
    text, _ = report(tmp_path, overrides, size)
    assert ("caled-down run" in text) == smaller
    assert ("learning rate: 0.001 (the paper: 0.0001)" in text) == ("learning_rate" in overrides)
