"""Cells with nnU-Net's own commands, on this machine and as a SLURM job."""

import json
import os
import threading

import numpy as np
import pytest
from skimage import io

from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.listing import Events
from nnunetv2_xattnres.ablation.local import run_local
from nnunetv2_xattnres.ablation.observe import observe
from nnunetv2_xattnres.ablation.planning import Request, plan_study
from nnunetv2_xattnres.ablation.slurm import Resources, follow, submit

pytestmark = pytest.mark.slow
DATASET = "Dataset021_Discs"
# one epoch of one iteration, as a user would shorten a trial
RECIPE = {"epochs": 1, "iterations_per_epoch": 1, "validation_iterations": 1, "batch_size": 2, "scales": [1]}


@pytest.fixture(scope="module")
def discs(module_nnunet):
    """Five 32x32 images to train on and one to test on, preprocessed; the plans shorten the paper's recipe."""
    raw = module_nnunet.raw / DATASET
    rng = np.random.default_rng(0)
    for subset, cases in (("Tr", 5), ("Ts", 1)):
        (raw / f"images{subset}").mkdir(parents=True)
        (raw / f"labels{subset}").mkdir()
        for case in range(cases):
            y, x = np.mgrid[:32, :32] - rng.integers(12, 20, (2, 1, 1))
            mask = (y**2 + x**2 < 64).astype(np.uint8)
            image = (rng.random((32, 32)) * 80 + 120 * mask).astype(np.uint8)
            io.imsave(raw / f"images{subset}" / f"disc_{case}_0000.png", image, check_contrast=False)
            io.imsave(raw / f"labels{subset}" / f"disc_{case}.png", mask, check_contrast=False)
    content = {"channel_names": {"0": "rgb_to_0_1"}, "labels": {"background": 0, "disc": 1}}
    (raw / "dataset.json").write_text(json.dumps({**content, "numTraining": 5, "file_ending": ".png"}))
    module_nnunet.run("nnUNetv2_plan_and_preprocess", "-d", 21, "-c", "2d", "-np", 1, "-npfp", 1)
    file = module_nnunet.preprocessed / DATASET / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["paper_recipe"] = RECIPE
    file.write_text(json.dumps(plans))
    return module_nnunet


@pytest.fixture
def one_cell(discs, tmp_path, monkeypatch, request):
    """A planned study of one cell, and the environment of its commands; as parameter "no test set", without one."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(discs.root / name))
    if getattr(request, "param", None) == "no test set":
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for name, value in {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
        monkeypatch.setenv(name, value)
    trainer = "nnUNetTrainer_XAttnRes_Paper"
    study = plan_study(tmp_path / "study", Request("21", trainer=trainer, seeds=[0], networks=["paper-unet"]))
    study.cells = [cell for cell in study.cells if cell.variant == "replace"]
    study.save()
    return study


def check_complete(study, predicted):
    (seen,) = observe(study)
    log = (study.cell_folder(seen.cell) / "log.txt").read_text()
    assert seen.state == "complete", seen.record.get("error", "") + log[-3000:]
    assert seen.record["predicted"] == predicted and 0 <= seen.dice <= 1
    scores = json.loads(study.scores_file(seen.cell).read_text())
    masks = sorted(path.name for path in (study.cell_folder(seen.cell) / "predictions").glob("*.png"))
    assert sorted({row["case"] + ".png" for row in scores["cases"]}) == masks and masks
    plans = json.loads((study.fold_folder(seen.cell).parent / "plans.json").read_text())
    configuration = plans["configurations"]["2d_paper_unet_replace"]
    assert configuration["paper_recipe"]["iterations_per_epoch"] == 1
    assert configuration["architecture"]["arch_kwargs"]["routing"]["skip_connections"] is False
    assert "Seed 0 (XATTNRES_SEED)" in log
    return seen


def test_a_cell_is_trained_predicts_the_test_set_and_is_scored(one_cell):
    run_local(one_cell, list(one_cell.cells), [Device()], Events(1, 0), threading.Event())
    seen = check_complete(one_cell, "imagesTs")
    names = [command.split("nnUNetv2_")[-1].split()[0] for command in seen.record["commands"][:2]]
    assert names == ["train", "predict"] and len(seen.record["commands"]) == 3
    before = (one_cell.fold_folder(seen.cell) / "checkpoint_final.pth").stat().st_mtime_ns
    run_local(one_cell, list(one_cell.cells), [Device()], Events(1, 1), threading.Event())
    assert (one_cell.fold_folder(seen.cell) / "checkpoint_final.pth").stat().st_mtime_ns == before
    assert len(observe(one_cell)[0].record["commands"]) == 3


@pytest.mark.parametrize("one_cell", ["no test set"], indirect=True)
def test_a_cell_runs_as_a_slurm_job_and_is_scored_on_the_validation_cases(cluster, one_cell):
    events = Events(1, 0)
    follow(one_cell, submit(one_cell, Resources(gpus=0, cpus=1, minutes=30, memory="3G"), events), events, 1)
    seen = check_complete(one_cell, "validation")
    assert seen.record["slurm_job"] and seen.record["pid"] != os.getpid()
