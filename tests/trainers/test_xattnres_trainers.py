import json
import time
from copy import deepcopy

import numpy as np
import pytest
import torch
from nnunet_commands import ONE_PROCESS
from phantom_dataset import shrink, write_dataset
from PIL import Image

from nnunetv2_xattnres import Predictor, trainers
from nnunetv2_xattnres.catalogue import routings
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.trainers.xattnres import nnUNetTrainer_XAttnRes
from nnunetv2_xattnres.untrusted import check_checkpoint

TRIAL = "nnUNetTrainer_XAttnRes_Trial"


def plans_with(network):
    architecture = {"network_class_name": network, "arch_kwargs": {"n_stages": 3}, "_kw_requires_import": []}
    configurations = {
        "2d": {"architecture": architecture, "patch_size": [8, 8]},
        "2d_small": {"inherits_from": "2d", "batch_size": 2},
    }
    return {"plans_name": "MyPlans", "configurations": configurations, "continue_training": False}


def adapted(trainer, plans, configuration):
    """What the trainer trains by, without building it; the copy is ``PluginTrainer``'s."""
    return object.__new__(trainer).adapt_plans(deepcopy(plans), configuration, {})


@pytest.mark.parametrize(
    ("stock", "ours"), [("PlainConvUNet", "XAttnResUNet"), ("ResidualEncoderUNet", "XAttnResResidualEncoderUNet")]
)
@pytest.mark.parametrize("configuration", ["2d", "2d_small"])
def test_it_rewrites_the_trained_configuration_only(stock, ours, configuration):
    plans = plans_with(f"dynamic_network_architectures.architectures.unet.{stock}")
    rewritten = adapted(trainers.nnUNetTrainer_XAttnRes_Replace, plans, configuration)
    architecture = rewritten["configurations"].pop(configuration)["architecture"]
    assert architecture == {
        "network_class_name": f"nnunetv2_xattnres.architectures.{ours}",
        "arch_kwargs": {"n_stages": 3, "routing": routings()["replace"]},
        "_kw_requires_import": [],
    }
    for name, values in rewritten["configurations"].items():
        assert values == plans["configurations"][name]


def test_plans_of_this_package_are_trained_as_they_are():
    plans = plans_with("nnunetv2_xattnres.architectures.PaperUNet")
    assert adapted(nnUNetTrainer_XAttnRes, plans, "2d") == plans
    with pytest.raises(InputError, match=r"2d of MyPlans.*'noskip'.*-tr nnUNetTrainer_XAttnRes"):
        adapted(trainers.nnUNetTrainer_XAttnRes_NoSkip, plans, "2d")


@pytest.mark.parametrize("seed", ["abc", "-1", "4294967296", "1.5"])
def test_a_seed_that_is_none_is_named(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("XATTNRES_SEED", seed)
    trainer = object.__new__(nnUNetTrainer_XAttnRes)
    with pytest.raises(InputError, match=f"XATTNRES_SEED is {seed}: give a whole number"):
        trainer.initialize()


def test_another_network_is_named():
    with pytest.raises(InputError, match=r"2d of MyPlans names the network somewhere\.MambaNet"):
        adapted(nnUNetTrainer_XAttnRes, plans_with("somewhere.MambaNet"), "2d")


@pytest.mark.parametrize(
    ("name", "variant"),
    [("NoSkip", "noskip"), ("EncoderOnly", "encoder"), ("DecoderOnly", "decoder"), ("Trial", "both")],
)
def test_a_trainer_puts_its_routing_into_stock_plans(name, variant):
    plans = plans_with("dynamic_network_architectures.architectures.unet.PlainConvUNet")
    rewritten = adapted(getattr(trainers, f"nnUNetTrainer_XAttnRes_{name}"), plans, "2d")
    assert rewritten["configurations"]["2d"]["architecture"]["arch_kwargs"]["routing"] == routings()[variant]


@pytest.fixture(scope="module")
def planned(module_nnunet):
    """A phantom, planned and preprocessed: nnU-Net's commands and the data set's folder among the raw ones."""
    raw = write_dataset(module_nnunet.raw, 701)
    module_nnunet.run("nnUNetv2_plan_and_preprocess", "-d", 701, "-c", "2d", "-npfp", 1, "-np", 1)
    shrink(module_nnunet.preprocessed / raw.name / "nnUNetPlans.json", "2d")
    return module_nnunet, raw


@pytest.mark.slow
def test_stock_commands_from_training_to_a_shared_model(planned, tmp_path):
    nnunet, raw = planned
    nnunet.environment["XATTNRES_SEED"] = "3"
    train = ("nnUNetv2_train", 701, "2d", 0, "-tr", TRIAL, "-device", "cpu")
    printed = nnunet.run(*train).stdout
    assert "Epoch 1: 10/20 iterations, loss" in printed and "iterations/s" in printed  # plain lines: no terminal here
    assert "Seed 3" in printed

    model = nnunet.results / raw.name / f"{TRIAL}__nnUNetPlans__2d"
    plans = json.loads((model / "plans.json").read_text())
    architecture = plans["configurations"]["2d"]["architecture"]
    assert architecture["network_class_name"] == "nnunetv2_xattnres.architectures.XAttnResUNet"
    assert architecture["arch_kwargs"]["routing"] == routings()["both"]
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        check_checkpoint(model / "fold_0" / name)
        checkpoint = torch.load(model / "fold_0" / name, weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert checkpoint["xattnres_trainer_name"] == TRIAL
        queries = [v for k, v in checkpoint["network_weights"].items() if k.endswith("query")]
        assert queries and all(q.any() for q in queries)  # zero before the training

    for again in ("--c", "--val"):  # as after a validation that was cut off
        nnunet.run(*train, again)
        for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
            checkpoint = torch.load(model / "fold_0" / name, weights_only=False)
            names = checkpoint["trainer_name"], checkpoint["xattnres_trainer_name"]
            assert names == ("nnUNetTrainer", TRIAL)

    images, predictions = raw / "imagesTs", tmp_path / "predictions"
    predict = ("nnUNetv2_predict", "-d", 701, "-c", "2d", "-f", 0, "-tr", TRIAL, "-device", "cpu", "-i", images)
    nnunet.run(*predict, "-o", predictions, "-npp", 1, "-nps", 1, hook=False)
    assert sorted(p.name for p in predictions.glob("*.png")) == ["case_08.png", "case_09.png"]
    nnunet.run("nnUNetv2_evaluate_folder", raw / "labelsTs", predictions, "-djfile", raw / "dataset.json",
               "-pfile", model / "plans.json", hook=False)  # fmt: skip
    predictor = Predictor(model, device="cpu")
    for path in predictions.glob("*.png"):
        image = np.asarray(Image.open(images / f"{path.stem}_0000.png"))
        np.testing.assert_array_equal(predictor(image), np.asarray(Image.open(path)))
    dice = json.loads((predictions / "summary.json").read_text())["foreground_mean"]["Dice"]
    assert dice > 0.5

    archive = tmp_path / "model.zip"
    nnunet.run("nnUNetv2_export_model_to_zip", "-d", 701, "-c", "2d", "-f", 0, "-tr", TRIAL, "-o", archive, hook=False)
    model.rename(tmp_path / "away")
    nnunet.run("nnUNetv2_install_pretrained_model_from_zip", archive, hook=False)
    nnunet.run(*predict, "-o", tmp_path / "again", *ONE_PROCESS, hook=False)
    for prediction in predictions.glob("*.png"):
        assert prediction.read_bytes() == (tmp_path / "again" / prediction.name).read_bytes()


@pytest.mark.slow
def test_residual_encoder_regions_and_ignore_label_and_an_unknown_network(module_nnunet):
    nnunet, raw = module_nnunet, write_dataset(module_nnunet.raw, 702, regions=True)
    nnunet.run("nnUNetv2_plan_and_preprocess", "-d", 702, "-c", "2d", "-npfp", 1, "-np", 1,
               "-pl", "nnUNetPlannerResEncM")  # fmt: skip
    plans_file = nnunet.preprocessed / raw.name / "nnUNetResEncUNetMPlans.json"
    shrink(plans_file, "2d")
    train = ("nnUNetv2_train", 702, "2d", 0, "-p", "nnUNetResEncUNetMPlans", "-tr", TRIAL, "-device", "cpu")
    nnunet.run(*train)
    model = nnunet.results / raw.name / f"{TRIAL}__nnUNetResEncUNetMPlans__2d"
    assert "XAttnResResidualEncoderUNet" in (model / "plans.json").read_text()
    validated = list((model / "fold_0" / "validation").glob("case_*.png"))
    assert validated and all(set(np.unique(Image.open(path))) <= {0, 1, 2} for path in validated)
    dice = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())["mean"]
    assert set(dice) == {"(1, 2)", "2"} and dice["(1, 2)"]["Dice"] > 0.5

    plans_file.write_text(plans_file.read_text().replace("unet.ResidualEncoderUNet", "unet.ResidualUNet"))
    failed = nnunet.run(*train, check=False)
    assert failed.returncode != 0
    assert "unet.ResidualUNet: XAttnRes can be put into" in failed.stderr


@pytest.mark.slow
def test_a_training_that_was_killed_continues(planned):
    nnunet, raw = planned
    train = ("nnUNetv2_train", 701, "2d", 1, "-tr", TRIAL, "-device", "cpu")
    fold = nnunet.results / raw.name / f"{TRIAL}__nnUNetPlans__2d" / "fold_1"
    with nnunet.start(*train) as process:
        wait_for(lambda: any("Epoch 1: 5/20" in log.read_text() for log in fold.glob("training_log*.txt")), process)
        process.kill()
    assert not (fold / "checkpoint_final.pth").exists()
    nnunet.run(*train, "--c")
    final = (fold / "checkpoint_final.pth").read_bytes()
    nnunet.run(*train, "--val", "--val_best", "--npz")
    assert (fold / "checkpoint_final.pth").read_bytes() == final
    assert len(list((fold / "validation").glob("*.npz"))) == len(list((fold / "validation").glob("*.png"))) > 0


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
