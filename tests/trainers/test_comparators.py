"""The comparison networks in our trainers: every output has a loss, and each trains and predicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_commands import ONE_PROCESS
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from phantom_dataset import write_dataset
from phantom_plans import make_plans
from torch import nn

from nnunetv2_xattnres.catalogue import NETWORKS
from nnunetv2_xattnres.plans.variants import architecture
from nnunetv2_xattnres.trainers import (
    nnUNetTrainer_XAttnRes,
    nnUNetTrainer_XAttnRes_Paper,
    nnUNetTrainer_XAttnRes_SumLoss,
)
from nnunetv2_xattnres.trainers.losses import SubsetLoss, SumLoss

COMPARED = [key for key, network in NETWORKS.items() if ".comparators." in network.class_name]
COMMANDS = ("missformer", "pvt-cascade", "swin-unet")  # these go through nnU-Net's commands, the others in process


def test_the_sum_of_all_outputs_losses():
    torch.manual_seed(0)
    outputs = [torch.randn(2, 3, 4, 4) for _ in range(3)]
    target = torch.randint(3, (2, 1, 4, 4))

    def loss(logits, target):
        return torch.nn.functional.cross_entropy(logits, target[:, 0])

    expected = sum(loss(logits, target) for logits in outputs)
    torch.testing.assert_close(SumLoss(loss)(outputs, [target] * 4), expected)  # the last target has no output
    torch.testing.assert_close(SumLoss(loss)(outputs[0], target), loss(outputs[0], target))


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A function that makes a trainer for a network, as `plan` writes its configuration."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.delenv("XATTNRES_SEED", raising=False)

    def make(key, trainer_class, encoder="pvt_v2_b0"):
        plans, dataset_json = make_plans(tmp_path, recipe={"batch_size": 2, "scales": [1.0]})
        configuration = plans["configurations"]["2d_both"]
        configuration["architecture"] = architecture(
            key, "baseline", configuration, encoder=encoder, encoder_weights=None
        )
        return trainer_class(plans, "2d_both", 0, dataset_json, torch.device("cpu"))

    return make


class One(nn.Module):
    """A loss of 1 that counts its calls."""

    calls = 0

    def forward(self, logits, target):
        self.calls += 1
        return torch.ones(())


def test_every_output_counts_in_nnunets_own_loss(planned):
    trainer = planned("pvt-cascade", nnUNetTrainer_XAttnRes)
    trainer.initialize()
    assert isinstance(trainer.loss, DeepSupervisionWrapper)
    outputs = [torch.zeros(1, 2, 4, 4) for _ in range(4)]
    targets = [torch.zeros(1, 1, 4, 4)] * len(trainer._get_deep_supervision_scales())
    trainer.loss.loss = One()
    assert float(trainer.loss(outputs, targets)) == pytest.approx(1)  # the weights are 8, 4, 2 and 1 of 15
    assert trainer.loss.loss.calls == 4


@pytest.mark.parametrize(("key", "loss"), [("pvt-cascade", SumLoss), ("emcad", SubsetLoss), ("ssformer", None)])
def test_the_papers_recipe_for_several_outputs(planned, key, loss):
    trainer = planned(key, nnUNetTrainer_XAttnRes_Paper)
    trainer.initialize()
    assert trainer.network.decoder.deep_supervision == (loss is not None)
    assert isinstance(trainer.loss, loss) if loss else not isinstance(trainer.loss, (SumLoss, SubsetLoss))
    trainer.get_dataloaders()
    batch = next(iter(trainer._loaders[0]))
    assert np.isfinite(trainer.train_step(batch)["loss"])


@pytest.mark.parametrize(("key", "count"), [("polyp-pvt", 2), ("ssformer", 1), ("paper-unet", 1)])
def test_the_sum_in_nnunets_recipe(planned, key, count):
    trainer = planned(key, nnUNetTrainer_XAttnRes_SumLoss)
    trainer.initialize()
    assert isinstance(trainer.loss, SumLoss)
    trainer.loss.loss = One()
    outputs = trainer.network(torch.rand(2, 3, *trainer.configuration_manager.patch_size))
    targets = [torch.zeros(2, 1, *output.shape[2:]) for output in (*outputs, outputs[-1])]
    assert len(targets) == len(trainer._get_deep_supervision_scales())
    assert trainer.loss(outputs, targets) == count


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in COMPARED if key not in COMMANDS])
def test_a_step_and_a_prediction(planned, key):
    trainer = planned(key, nnUNetTrainer_XAttnRes)
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    assert np.isfinite(trainer.train_step(next(loader))["loss"])
    trainer.on_validation_epoch_start()
    assert np.isfinite(trainer.validation_step(next(loader))["loss"])
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        trainer.dataset_json, type(trainer).__name__, None,
    )  # fmt: skip
    logits = predictor.predict_logits_from_preprocessed_data(torch.rand(3, 1, 50, 44))
    assert logits.shape == (2, 1, 50, 44) and torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("key", COMMANDS)
def test_nnunets_commands(module_nnunet, tmp_path, key):
    raw = module_nnunet.raw / "Dataset015_Phantom"
    module_nnunet.environment["nnUNet_extTrainer"] = str(Path(__file__).parents[1] / "short_trainers")
    if not raw.exists():
        write_dataset(module_nnunet.raw, 15, side=32)
        module_nnunet.run("nnUNetv2_plan_and_preprocess", "-d", 15, "-c", "2d", "-npfp", 1, "-np", 1)
    options = ["--encoder-weights", "none", *(["--encoder", "pvt_v2_b0"] if key == "pvt-cascade" else [])]
    module_nnunet.run_here("plan", 15, "--network", key, "--study", "table2", *options)
    name = f"2d_{NETWORKS[key].infix}baseline"
    plans = ["-p", "nnUNetXAttnResPlans", "-tr", "nnUNetTrainer_XAttnRes_Short", "-device", "cpu"]
    module_nnunet.run("nnUNetv2_train", 15, name, 0, *plans)
    images = ["-i", raw / "imagesTs", "-o", tmp_path, *ONE_PROCESS, "--disable_tta"]
    module_nnunet.run("nnUNetv2_predict", "-d", 15, "-c", name, "-f", 0, *plans, *images, hook=False)
    assert len(list(tmp_path.glob("case_*.png"))) == 2
