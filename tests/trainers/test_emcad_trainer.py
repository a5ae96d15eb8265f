"""nnUNetTrainer_EMCAD and nnU-Net's own trainer on the plans that `plan` writes, on real images where there are any."""

import json
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from nnunet_commands import ONE_PROCESS
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.trainers import nnUNetTrainer_EMCAD, nnUNetTrainer_XAttnRes
from nnunetv2_xattnres.trainers.losses import SubsetLoss

PLANS = "nnUNetXAttnResPlans"
SIDE = 64


def test_loss_is_the_sum_over_fifteen_subsets():
    torch.manual_seed(0)
    outputs = [torch.randn(2, 3, 8, 8, requires_grad=True) for _ in range(4)]
    target = torch.randint(3, (2, 1, 8, 8))

    def loss(logits, target):
        return torch.nn.functional.cross_entropy(logits, target[:, 0])

    sums = [torch.stack(chosen).sum(0) for count in range(1, 5) for chosen in combinations(outputs, count)]
    calls = []
    subsets = SubsetLoss(lambda *each: calls.append(each) or loss(*each))
    torch.testing.assert_close(subsets(outputs, [target] * 4), sum(loss(logits, target) for logits in sums))
    assert len(calls) == 15
    torch.testing.assert_close(subsets(outputs[0], target), loss(outputs[0], target))
    with pytest.raises(ValueError, match="one size"):
        subsets([outputs[0], outputs[1][..., :4]], [target] * 2)


def frames():
    """Twelve small images with their masks: real polyps, or blobs where the real ones are not there."""
    shared = os.environ.get("XATTNRES_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")
    real = Path(shared) / "CVC-ClinicDB" / "PNG"
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        if (real / "Original").is_dir():
            box = (120, 80, 120 + 3 * SIDE // 2, 80 + 3 * SIDE // 2)
            image = Image.open(real / "Original" / f"{number * 40}.png").convert("RGB").crop(box)
            mask = Image.open(real / "Ground Truth" / f"{number * 40}.png").convert("L").crop(box)
            yield number, image, (np.asarray(mask) > 127).astype(np.uint8)
        else:
            image = rng.integers(0, 90, (96, 96, 3), np.uint8)
            mask = np.zeros((96, 96), np.uint8)
            top, left = rng.integers(10, 50, 2)
            mask[top : top + 30, left : left + 30] = 1
            image[mask > 0] += 100
            yield number, Image.fromarray(image), mask


@pytest.fixture(scope="module")
def planned(module_nnunet, tmp_path_factory):
    """A preprocessed data set with the variants' plans; nnU-Net's variables are set for this process too."""
    raw = module_nnunet.raw / "Dataset001_Polyps"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True)
    for number, image, mask in frames():
        part = "Ts" if number > 10 else "Tr"
        image.save(raw / f"images{part}" / f"frame_{number:02d}_0000.png")
        if part == "Tr":
            Image.fromarray(mask).save(raw / "labelsTr" / f"frame_{number:02d}.png")
    dataset = {
        "channel_names": {"0": "rgb_to_0_1", "1": "rgb_to_0_1", "2": "rgb_to_0_1"},
        "labels": {"background": 0, "polyp": 1},
        "numTraining": 10,
        "file_ending": ".png",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    module_nnunet.run("nnUNetv2_plan_and_preprocess", "-d", 1, "-c", "2d", "-npfp", 1, "-np", 1)
    file = module_nnunet.preprocessed / raw.name / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"].update(patch_size=[SIDE, SIDE], batch_size=2)
    file.write_text(json.dumps(plans))

    torch.manual_seed(3)
    weights = tmp_path_factory.mktemp("weights") / "pvt_v2_b0.pth"
    source = timm.create_model("pvt_v2_b0", pretrained=False)
    torch.save(source.state_dict(), weights)
    options = ["--encoder", "pvt_v2_b0", "--encoder-weights", weights]
    module_nnunet.run_here("plan", 1, "--study", "backbone", *options)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(getattr(module_nnunet, name)))
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.delenv("XATTNRES_SEED", raising=False)
        yield module_nnunet, weights, source


def trainer(nnunet, trainer_class, configuration, continued=False, **plans_changes):
    folder = nnunet.preprocessed / "Dataset001_Polyps"
    plans = json.loads((folder / f"{PLANS}.json").read_text())
    plans["continue_training"] = continued
    plans["configurations"][configuration]["architecture"]["arch_kwargs"].update(plans_changes)
    made = trainer_class(
        plans, configuration, 0, json.loads((folder / "dataset.json").read_text()), torch.device("cpu")
    )
    made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = 1, 2, 1
    made.logger.plot_progress_png = lambda folder: None  # a second for each epoch
    return made


def predict(nnunet, trainer_name, configuration, folder):
    arguments = ["-tr", trainer_name, "-p", PLANS, "-c", configuration, "-d", 1, "-f", 0, "--disable_tta"]
    images = nnunet.raw / "Dataset001_Polyps" / "imagesTs"
    nnunet.run("nnUNetv2_predict", "-i", images, "-o", folder, *arguments, "-device", "cpu", *ONE_PROCESS, hook=False)
    predicted = sorted(folder.glob("*.png"))
    assert [file.name for file in predicted] == ["frame_11.png", "frame_12.png"]
    for file in predicted:
        assert np.asarray(Image.open(file)).shape == (96, 96)


@pytest.mark.slow
class TestOnPlans:
    @pytest.mark.parametrize("configuration", ["2d_emcad_both", "2d_paper_unet_replace"])
    def test_nnunets_own_trainer(self, planned, configuration):
        stock = trainer(planned[0], nnUNetTrainer, configuration)
        stock.run_training()
        assert np.isfinite(stock.logger.get_value("train_losses", step=None)).all()
        assert (Path(stock.output_folder) / "checkpoint_final.pth").is_file()

    def test_predict_without_hook(self, planned, tmp_path):
        stock = trainer(planned[0], nnUNetTrainer, "2d_paper_unet_both")
        stock.run_training()
        predict(planned[0], "nnUNetTrainer", "2d_paper_unet_both", tmp_path)

    def test_our_trainer_takes_the_plans_as_they_are(self, planned):
        ours = trainer(planned[0], nnUNetTrainer_XAttnRes, "2d_paper_unet_replace")
        ours.initialize()
        assert type(ours.network).__name__ == "PaperUNet" and not ours.network.routing.skip_connections

    def test_recipe_starts_from_the_weights_and_continues_without_them(self, planned, tmp_path):
        nnunet, weights, source = planned
        emcad = trainer(nnunet, nnUNetTrainer_EMCAD, "2d_emcad_both")
        emcad.initialize()
        key = "stages.1.blocks.0.attn.q.weight"
        loaded = emcad.network.encoder.state_dict()[key.replace("stages.", "stages_")]
        assert torch.equal(loaded, source.state_dict()[key])
        assert isinstance(emcad.optimizer, torch.optim.AdamW)
        (group,) = emcad.optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4)
        assert len(group["params"]) == len(list(emcad.network.parameters()))
        emcad.lr_scheduler.step(0)
        assert group["lr"] == 1e-4
        assert (emcad.loss.loss.weight_ce, emcad.loss.loss.weight_dice) == (0.3, 0.7)
        assert emcad.network.input_normalization == "imagenet"
        emcad.run_training()
        trained = {name: value.clone() for name, value in emcad.network.state_dict().items()}
        assert not torch.equal(trained[f"encoder.{key.replace('stages.', 'stages_')}"], source.state_dict()[key])

        hidden = weights.rename(weights.with_suffix(".hidden"))  # neither --c nor prediction may look for it
        try:
            again = trainer(nnunet, nnUNetTrainer_EMCAD, "2d_emcad_both", continued=True)
            again.load_checkpoint(str(Path(emcad.output_folder) / "checkpoint_final.pth"))
            assert all(torch.equal(value, trained[name]) for name, value in again.network.state_dict().items())
            predict(nnunet, "nnUNetTrainer_EMCAD", "2d_emcad_both", tmp_path)
        finally:
            hidden.rename(weights)

    @pytest.mark.parametrize("damage", ["missing", "truncated", "mismatched"])
    def test_bad_weights_stop_before_the_first_iteration(self, planned, tmp_path, monkeypatch, damage):
        nnunet, weights, _ = planned
        file = tmp_path / "bad.pth"
        if damage == "truncated":
            file.write_bytes(weights.read_bytes()[:100_000])
        elif damage == "mismatched":
            torch.save(timm.create_model("pvt_v2_b1", pretrained=False).state_dict(), file)
        emcad = trainer(nnunet, nnUNetTrainer_EMCAD, "2d_emcad_both", encoder_weights=str(file))
        monkeypatch.setattr(emcad, "train_step", lambda batch: pytest.fail("an iteration has begun"))
        with pytest.raises(InputError, match=r"bad\.pth.*pvt_v2_b0"):
            emcad.run_training()
        assert not list(Path(emcad.output_folder).glob("checkpoint_latest*"))

    def test_null_trains_from_random_weights_and_says_so(self, planned, capsys):
        emcad = trainer(planned[0], nnUNetTrainer_EMCAD, "2d_emcad_both", encoder_weights=None)
        emcad.initialize()
        assert "starts from random weights" in capsys.readouterr().out

    def test_other_networks_are_refused(self, planned):
        with pytest.raises(InputError, match=r"2d_paper_unet_both.*PaperUNet.*--network emcad"):
            trainer(planned[0], nnUNetTrainer_EMCAD, "2d_paper_unet_both")
