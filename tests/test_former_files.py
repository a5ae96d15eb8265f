"""Files that former versions have left: plans, a study and a trained model (``former/``, of version 0.1) still work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_xattnres.ablation.report import write_report
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.cli import main

FORMER = Path(__file__).parent / "former"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = tmp_path / "Dataset011_Discs"
    folder.mkdir()
    for name in ("nnUNetPlans.json", "nnUNetXAttnResPlans.json", "dataset.json"):
        shutil.copy(FORMER / name, folder)
    return folder


def test_plans_are_what_this_version_writes(dataset, capsys):
    file = dataset / "nnUNetXAttnResPlans.json"
    former = json.loads(file.read_text())
    # the networks that came later are added, and nothing else changes
    later = [
        f"2d_{network}_{variant}" for network in ("unet_3_plus", "ssformer") for variant in ("baseline", "replace")
    ]
    assert main(["plan", "11"]) == 0
    added = json.loads(file.read_text())
    assert [added["configurations"].pop(name)["inherits_from"] for name in later] == ["2d"] * 4
    assert added == former
    file.unlink()
    assert main(["plan", "11"]) == 0
    new = json.loads(file.read_text())
    assert new.pop("xattnres") == {"format": 1, **former.pop("xattnres")}
    assert {name: entry for name, entry in new["configurations"].items() if name not in later} == former[
        "configurations"
    ]
    assert {**new, "configurations": {}} == {**former, "configurations": {}}


def test_plans_are_added_to(dataset, capsys):
    former = json.loads((dataset / "nnUNetXAttnResPlans.json").read_text())["configurations"]
    assert main(["plan", "11", "--network", "emcad", "--encoder", "pvt_v2_b0", "--study", "position"]) == 2
    assert "2d_emcad_noskip is different" in capsys.readouterr().err  # the former ones have the larger encoder
    assert main(["plan", "11", "--network", "paper-unet", "--study", "position"]) == 0
    new = json.loads((dataset / "nnUNetXAttnResPlans.json").read_text())["configurations"]
    assert {**new, **former} == new and "2d_paper_unet_encoder" in new.keys() - former.keys()


def test_a_study_is_read_and_reported(tmp_path):
    folder = shutil.copytree(FORMER / "study", tmp_path / "study")
    study = Study.load(folder)
    assert [cell.variant for cell in study.cells] == ["baseline", "both"]
    assert all(study.read_state(cell)["state"] == State.COMPLETE for cell in study.cells)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "2 of 2 cells complete" in page and "U-Net (both)" in page
    study.save()
    study.update_state(study.cells[0], error="x")
    assert Study.load(folder).cells == study.cells and study.read_state(study.cells[0])["format"] == 1


def test_a_model_predicts_what_it_did():
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(FORMER / "model"), (0,), "checkpoint_final.pth")
    network = predictor.network
    network.load_state_dict(predictor.list_of_parameters[0])
    image = torch.linspace(-1, 1, 32 * 32).reshape(1, 1, 32, 32).sin()
    with torch.no_grad():
        logits = network.eval()(image).numpy()
    np.testing.assert_allclose(logits, np.load(FORMER / "model" / "expected.npy"), atol=1e-4)


@pytest.mark.parametrize("which", ["plans", "study", "cell"])
def test_files_of_a_newer_version_are_refused(dataset, tmp_path, which, capsys):
    folder = shutil.copytree(FORMER / "study", tmp_path / "study")
    file = {
        "plans": dataset / "nnUNetXAttnResPlans.json",
        "study": folder / "study.json",
        "cell": folder / "cells" / "2d_both__fold0__seed0" / "cell.json",
    }[which]
    content = json.loads(file.read_text())
    (content["xattnres"] if which == "plans" else content)["format"] = 99
    file.write_text(json.dumps(content))
    if which == "plans":
        assert main(["plan", "11"]) == 2
    else:
        assert main(["ablate", "11", "--report", "--output", str(folder)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error and "format 99" in error and "update it" in error
