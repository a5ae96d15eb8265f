"""The paper's recipe, by what it does: optimiser, loss, passes over the data, scales, clipping, the model it keeps."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from phantom_plans import make_plans
from torch import nn

from nnunetv2_xattnres.architectures import PaperUNet
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.trainers import nnUNetTrainer_EMCAD_Paper, nnUNetTrainer_XAttnRes_Paper
from nnunetv2_xattnres.trainers.augmentation import paper_transforms
from nnunetv2_xattnres.trainers.base import PluginTrainer
from nnunetv2_xattnres.trainers.losses import WeightedBCEIoULoss
from nnunetv2_xattnres.trainers.multiscale import forward_at_scale, scaled_size
from nnunetv2_xattnres.trainers.recipe import BASES, Recipe
from nnunetv2_xattnres.trainers.validation import mean_dice
from nnunetv2_xattnres.trainers.whole_images import Share, WholeImageLoader


class Cases:
    """Stands for nnU-Net's data set class: cases in memory."""

    def __init__(self, cases: dict[str, tuple[int, ...]]):
        self.identifiers = list(cases)
        self.data = {
            name: (np.full((1, *shape), number, np.float32), np.zeros((1, *shape), np.int16))
            for number, (name, shape) in enumerate(cases.items())
        }

    def load_case(self, name):
        return *self.data[name], None, {}


def plain(**data_dict):
    return data_dict


def loader(cases, share, patch=(8, 8), **options):
    return WholeImageLoader(Cases(cases), share, patch, plain, **{"shuffle": True, **options})


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_binary_and_synapse_defaults_are_the_papers():
    binary, synapse = Recipe.choose(1, None, "2d"), Recipe.choose(8, None, "2d")
    assert (binary.epochs, binary.batch_size, binary.scales, binary.clipping) == (200, 16, (0.75, 1.0, 1.25), 0.5)
    assert (synapse.epochs, synapse.batch_size, synapse.scales, synapse.clipping) == (300, 6, (1.0,), None)
    assert (synapse.loss, synapse.ce_weight, synapse.dice_weight) == ("ce_dice", 0.3, 0.7)
    assert (synapse.rotation, synapse.quarter_turns_and_flips) == (20, True)
    for recipe in (binary, synapse):
        assert (recipe.learning_rate, recipe.weight_decay) == (1e-4, 1e-4)


def test_every_number_can_be_overridden_and_is_described():
    overrides = {"base": "binary", "epochs": 3, "scales": [1], "clipping": None, "learning_rate": 2e-3}
    recipe = Recipe.choose(8, {**overrides, "loss": "ce_dice"}, "2d")
    assert (recipe.epochs, recipe.scales, recipe.clipping, recipe.batch_size) == (3, (1,), None, 16)
    text = recipe.describe(overrides)
    assert all(name in text for name in recipe.to_json())
    assert [line.endswith("(set in the plans)") for line in text.splitlines() if " epochs " in line] == [True]
    # what is written into the results' plans gives the same recipe again
    assert Recipe.choose(1, json.loads(json.dumps(recipe.to_json())), "2d") == recipe


def test_errors_name_the_valid_keys_and_list_every_problem():
    with pytest.raises(InputError, match="valid keys are base, epochs, batch_size") as caught:
        Recipe.choose(1, {"epoch": 3, "lr": 1}, "2d_both")
    assert "2d_both" in str(caught.value) and "'epoch'" in str(caught.value) and "'lr'" in str(caught.value)
    with pytest.raises(InputError) as caught:
        Recipe.choose(1, {"epochs": 0, "scales": [], "loss": "focal", "clipping": -1, "batch_size": 2.5}, "2d")
    assert len(caught.value.problems) == 5
    with pytest.raises(InputError, match="base"):
        Recipe.choose(1, {"base": "acdc"}, "2d")
    with pytest.raises(InputError, match="one foreground label"):
        Recipe.choose(3, {"loss": "weighted_bce_iou"}, "2d")


# --- passes over the data --------------------------------------------------------------------------------------------


def test_an_epoch_holds_every_slice_once():
    data = loader({"a": (3, 8, 8), "b": (2, 8, 8), "c": (1, 8, 8)}, Share(0, 2, 2))
    assert data.batches == 3
    passes = [[key for _ in range(3) for key in next(data)["keys"]] for _ in range(3)]
    every = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("c", 0)]
    assert all(sorted(keys) == every for keys in passes)
    assert passes[0] != passes[1]


def test_the_last_batch_is_filled_from_the_beginning_of_its_pass():
    data = loader({name: (1, 8, 8) for name in "abcde"}, Share(0, 3, 3), shuffle=False)
    batches = [[case for case, _ in next(data)["keys"]] for _ in range(3)]
    assert batches == [["a", "b", "c"], ["d", "e", "a"], ["a", "b", "c"]]


def test_workers_and_gpus_divide_the_same_batches():
    cases = {name: (1, 8, 8) for name in "abcdefghij"}
    alone = loader(cases, Share(0, 4, 4), seed=3)
    wanted = [alone.keys_of(batch) for batch in range(6)]

    workers = [loader(cases, Share(0, 4, 4), seed=3) for _ in range(2)]
    for number, worker in enumerate(workers):
        worker.threads = 2
        worker.set_thread_id(number)
    assert [next(workers[batch % 2])["keys"] for batch in range(6)] == wanted

    ranks = [loader(cases, Share(0, 3, 4), seed=3), loader(cases, Share(3, 1, 4), seed=3)]
    assert [[key for rank in ranks for key in next(rank)["keys"]] for _ in range(6)] == wanted


def test_a_training_that_continues_does_not_repeat_its_first_order():
    cases = {name: (1, 8, 8) for name in "abcdefgh"}
    whole = loader(cases, Share(0, 4, 4))
    later = loader(cases, Share(0, 4, 4))
    later.start_at(2 * whole.batches)
    assert next(later)["keys"] == whole.keys_of(2 * whole.batches)


def test_small_images_are_padded_and_large_ones_cropped():
    data = loader({"a": (1, 5, 12)}, Share(0, 1, 1), shuffle=False)
    data._data.data["a"][0][0, 0] += np.arange(12) + 1
    batch = next(data)
    assert batch["data"].shape == (1, 1, 8, 8) and batch["target"].shape == (1, 1, 8, 8)
    assert data.larger_than_patch() == 1
    rows = batch["data"][0, 0]
    assert rows[3].tolist() == list(range(3, 11))  # its middle
    assert (batch["target"] == -1).any(-1).sum() == 3  # rows outside of the image, which nnU-Net marks so


# --- augmentation ----------------------------------------------------------------------------------------------------


def test_augmentation_turns_flips_and_rotates_in_the_named_proportions():
    torch.manual_seed(0)
    np.random.seed(0)
    transform = paper_transforms(BASES["synapse"], (16, 16), None)
    image = torch.arange(256.0).view(1, 16, 16)
    values = sorted(image.flatten().tolist())
    turned = rotated = untouched = 0
    for _ in range(400):
        out = transform(image=image.clone(), segmentation=image.clone().to(torch.int16))
        assert out["image"].shape == (1, 16, 16)
        if torch.equal(out["image"], image):
            untouched += 1
        elif sorted(out["image"].flatten().tolist()) == values:
            assert torch.equal(out["image"].to(torch.int16), out["segmentation"])
            turned += 1
        else:
            rotated += 1
    # a turn and flips together leave the image as it is in one of eight cases
    assert abs(rotated - 100) < 40 and abs(turned - 175) < 45 and untouched > 50


def test_a_patch_that_is_not_square_keeps_its_shape_and_binary_data_are_not_augmented():
    np.random.seed(0)
    image = torch.rand(1, 8, 12)
    for recipe, same in ((BASES["synapse"], False), (BASES["binary"], True)):
        transform = paper_transforms(recipe, (8, 12), None)
        outputs = [transform(image=image.clone(), segmentation=torch.zeros(1, 8, 12))["image"] for _ in range(20)]
        assert all(output.shape == (1, 8, 12) for output in outputs)
        assert all(torch.equal(output, image) for output in outputs) == same


# --- scales ----------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Returns its input's first channel as logits, and remembers what it saw."""

    def __init__(self, input_size=None, outputs=1):
        super().__init__()
        self.input_size, self.outputs = input_size, outputs
        self.seen = []

    def forward(self, x):
        self.seen.append((tuple(x.shape), self.input_size))
        return x[:, :1] if self.outputs == 1 else [x[:, :1]] * self.outputs


def test_scaled_sizes_are_those_of_the_recipe():
    assert scaled_size((352, 352), 0.75, (32, 32)) == (256, 256)
    assert scaled_size((352, 352), 1.25, (32, 32)) == (448, 448)
    assert scaled_size((97, 131), 1, (32, 32)) == (97, 131)
    assert scaled_size((20, 20), 0.25, (32, 32)) == (32, 32)


def test_a_fixed_input_size_is_scaled_and_put_back():
    network = Recorder((64, 96))
    assert forward_at_scale(network, network, torch.rand(2, 3, 40, 40), 1.25, (32, 32)).shape == (2, 1, 40, 40)
    assert network.seen == [((2, 3, 40, 40), (96, 128))] and network.input_size == (64, 96)


@pytest.mark.parametrize("outputs", [1, 4])
def test_without_one_the_batch_is_scaled_and_the_logits_brought_back(outputs):
    network = Recorder(outputs=outputs)
    logits = forward_at_scale(network, network, torch.rand(2, 3, 128, 128), 0.75, (32, 32))
    assert network.seen[0][0] == (2, 3, 96, 96)
    shapes = [tuple(each.shape) for each in ([logits] if outputs == 1 else logits)]
    assert shapes == [(2, 1, 128, 128)] * outputs


def test_a_compiled_network_follows_the_scales():
    torch.manual_seed(0)
    network = PaperUNet(1, 2, input_size=(32, 32)).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x = torch.rand(1, 1, 40, 40)
    with torch.no_grad():
        scaled = [forward_at_scale(compiled, network, x, scale, (32, 32)) for scale in (0.5, 1, 2, 1)]
        network.input_size = (64, 64)
        wanted = network(x)
    assert torch.allclose(scaled[2], wanted, atol=1e-6) and torch.equal(scaled[1], scaled[3])
    assert not torch.allclose(scaled[1], wanted, atol=1e-3)


# --- losses ----------------------------------------------------------------------------------------------------------


def literal_structure_loss(probability, mask):
    """The formula with loops over pixels, for one image."""
    height, width = mask.shape
    weight = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            around = [
                mask[v, u]
                for v in range(max(0, y - 15), min(height, y + 16))
                for u in range(max(0, x - 15), min(width, x + 16))
            ]
            weight[y, x] = 1 + 5 * abs(sum(around) / 31**2 - mask[y, x])
    bce = -(mask * np.log(probability) + (1 - mask) * np.log(1 - probability))
    shared = (weight * probability * mask).sum()
    union = (weight * (probability + mask)).sum() - shared
    return (weight * bce).sum() / weight.sum() + 1 - (shared + 1) / (union + 1)


def test_weighted_bce_and_iou_equal_the_formula():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(2, 2, 20, 24)), dtype=torch.float64)
    mask = torch.tensor(rng.random((2, 1, 20, 24)) < 0.3).to(torch.int16)
    probability = logits.softmax(1)[:, 1].numpy()
    wanted = np.mean([literal_structure_loss(probability[i], mask[i, 0].numpy().astype(float)) for i in range(2)])
    assert float(WeightedBCEIoULoss()(logits, mask)) == pytest.approx(wanted, rel=1e-5)
    # one channel for a region: the same where its logit is the difference of the two
    region = WeightedBCEIoULoss(regions=True)(logits[:, 1:] - logits[:, :1], mask.bool())
    assert float(region) == pytest.approx(wanted, rel=1e-5)


def test_ignored_pixels_do_not_count():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 16, 16, requires_grad=True)
    target = (torch.rand(1, 1, 16, 16) < 0.5).to(torch.int16)
    target[..., 8:] = 2
    WeightedBCEIoULoss(ignore_label=2)(logits, target).backward()
    assert (logits.grad[..., 8:] == 0).all() and (logits.grad[..., :8] != 0).any()


def test_validation_dice_is_a_mean_over_cases_then_classes():
    def counts(*classes):
        return np.array(classes, dtype=np.float32).T

    records = {
        ("a", 0): counts((1, 0, 1), (0, 0, 0)),  # its two slices count together: Dice 2*4 / (2*4 + 0 + 2)
        ("a", 1): counts((3, 0, 1), (0, 0, 0)),
        ("b", 0): counts((0, 2, 0), (5, 0, 0)),
    }
    per_class, mean = mean_dice(records)
    assert per_class == pytest.approx([(0.8 + 0) / 2, 1.0])
    assert mean == pytest.approx(0.7)
    assert math.isnan(mean_dice({("a", 0): counts((0, 0, 0))})[1])


# --- the trainers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(trainer=nnUNetTrainer_XAttnRes_Paper, **options):
        for name in ("preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        if trainer is nnUNetTrainer_EMCAD_Paper:
            options = {
                "network": "EMCADNet",
                "encoder": "pvt_v2_b0",
                "strides": [[1, 1]] * 5,
                "input_normalization": None,
                **options,
            }
        else:
            options = {"strides": [[1, 1]] * 3, **options}
        plans, dataset_json = make_plans(tmp_path, **options)
        return trainer(plans, "2d_both", 0, dataset_json, torch.device("cpu"))

    return make


def test_the_optimiser_is_adamw_on_all_parameters_at_a_constant_rate(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4)
    assert {id(p) for p in group["params"]} == {id(p) for p in trainer.network.parameters()}
    for epoch in (0, 100, 199):
        trainer.lr_scheduler.step(epoch)
        assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
    assert trainer.num_epochs == 200


def literal_loss(logits, target):
    """The formulas for one output: of two classes the structure loss, of more 0.3 cross-entropy and 0.7 soft Dice."""
    p = logits.softmax(1)
    if logits.shape[1] == 2:
        masks = target[:, 0].numpy().astype(float)
        return np.mean([literal_structure_loss(each[1].numpy(), mask) for each, mask in zip(p, masks, strict=True)])
    onehot = torch.zeros_like(logits).scatter_(1, target.long(), 1)
    dice = (2 * (p * onehot).sum((0, 2, 3)) + 1e-5) / (p.sum((0, 2, 3)) + onehot.sum((0, 2, 3)) + 1e-5)
    return float(0.3 * nn.functional.cross_entropy(logits, target[:, 0].long()) - 0.7 * dice.mean())


def test_synapse_is_trained_on_cross_entropy_and_dice(make_trainer):
    trainer = make_trainer(labels=3)
    trainer.initialize()
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 1, 8, 8))
    assert float(trainer.loss(logits, target)) == pytest.approx(literal_loss(logits, target), rel=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_emcads_loss_is_the_sum_over_fifteen_subsets(make_trainer, labels):
    loss = make_trainer(nnUNetTrainer_EMCAD_Paper, labels=labels)._build_loss()
    torch.manual_seed(0)
    outputs = [torch.randn(2, labels + 1, 16, 16) for _ in range(4)]
    target = torch.randint(0, labels + 1, (2, 1, 16, 16)).to(torch.int16)
    subsets = [chosen for count in (1, 2, 3, 4) for chosen in combinations(outputs, count)]
    wanted = sum(literal_loss(torch.stack(chosen).sum(0), target) for chosen in subsets)
    assert len(subsets) == 15
    assert float(loss(outputs, [target] * 4)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ddp", [False, True], ids=["one process", "ddp"])
def test_each_scale_is_compiled_for_its_own_size(make_trainer, monkeypatch, ddp):
    sizes = []

    def backend(graph, examples):
        sizes.append([size for example in examples for size in example.shape])
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **options: compile_(network, backend=backend, **options))
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "_do_i_compile", lambda: True)
    if ddp:  # as nnU-Net wraps it, without the other processes
        initialize = PluginTrainer.initialize

        def wrapped(trainer):
            initialize(trainer)
            trainer.is_ddp, trainer.network = True, nn.ModuleDict({"module": trainer.network})

        monkeypatch.setattr(PluginTrainer, "initialize", wrapped)
    trainer.initialize()
    network = trainer._bare_network().eval()
    compiled = trainer.network["module"] if ddp else trainer.network
    with torch.no_grad():
        for scale in (1, 2, 3):
            forward_at_scale(compiled, network, torch.rand(1, network.input_channels, 32, 32), scale, (32, 32))
    assert len(sizes) == 3
    assert all(type(size) is int for each in sizes for size in each)
    assert torch._dynamo.config.automatic_dynamic_shapes  # of other networks in the process


@pytest.mark.parametrize("input_size", [None, (64, 64)])
def test_each_batch_is_trained_at_every_scale_with_clipped_gradients(make_trainer, monkeypatch, input_size):
    limit = 1e-3
    trainer = make_trainer(input_size=input_size, recipe={"clipping": limit, "batch_size": 3})
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    seen, gradients = [], []
    trainer.network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    step = trainer.optimizer.step

    def watched_step():
        gradients.append(max(float(p.grad.abs().max()) for p in trainer.network.parameters()))
        step()

    monkeypatch.setattr(trainer.optimizer, "step", watched_step)
    train, _ = trainer.get_dataloaders()
    before = [p.detach().clone() for p in trainer.network.encoder.stages.parameters()]
    output = trainer.train_step(next(train))
    base = (40, 48) if input_size is None else input_size
    inner = [scaled_size(base, scale, (32, 32)) for scale in (0.75, 1.0, 1.25)]
    padded = [(3, 3, *(-(-side // 16) * 16 for side in size)) for size in inner]
    assert seen == padded and len(set(padded)) > 1
    assert len(gradients) == 3 and max(gradients) == pytest.approx(limit)  # without it they are far larger
    assert all((a != b).any() for a, b in zip(before, trainer.network.encoder.stages.parameters(), strict=True))
    assert math.isfinite(output["loss"])


def test_synapse_is_trained_at_one_scale_without_clipping(make_trainer, monkeypatch):
    trainer = make_trainer(labels=3)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    monkeypatch.setattr(nn.utils, "clip_grad_value_", lambda *_: pytest.fail("clipped"))
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: pytest.fail("clipped"))
    batches = []
    trainer.network.encoder.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].shape[0]))
    trainer.train_step(next(trainer.get_dataloaders()[0]))
    assert batches == [6]


def test_three_dimensional_plans_and_bad_recipes_stop_before_anything_is_built(make_trainer, tmp_path):
    with pytest.raises(InputError, match="valid keys"):
        make_trainer(recipe={"epoch": 1})
    plans, dataset_json = make_plans(tmp_path / "other", strides=[[1, 1]] * 3)
    plans["configurations"]["2d_both"]["patch_size"] = [16, 40, 48]
    with pytest.raises(InputError, match="is 3D"):
        nnUNetTrainer_XAttnRes_Paper(plans, "2d_both", 0, dataset_json, torch.device("cpu"))


def run(trainer, dices, monkeypatch):
    """Train with the given validation Dice of each epoch; returns the weights after each epoch."""
    weights = []
    given = iter(dices)

    def score(records):
        assert sorted(records) == [("d", 0), ("e", 0)]  # the validation saw every image
        weights.append({key: value.clone() for key, value in trainer.network.state_dict().items()})
        dice = next(given)
        return [dice], dice

    monkeypatch.setattr("nnunetv2_xattnres.trainers.paper.mean_dice", score)
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda folder: None)  # seconds for each epoch
    trainer.run_training()
    return weights


def test_the_model_kept_is_that_of_the_best_epoch(make_trainer, monkeypatch, tmp_path, capsys):
    trainer = make_trainer(recipe={"epochs": 4, "batch_size": 2, "scales": [1], "learning_rate": 1e-2})
    trainer.initialize()
    weights = run(trainer, [0.2, 0.6, 0.6, 0.4], monkeypatch)
    assert trainer.num_iterations_per_epoch == 2  # three images in batches of two
    folder = tmp_path / "results/Dataset001_Phantom/nnUNetTrainer_XAttnRes_Paper__nnUNetXAttnResPlans__2d_both/fold_0"
    best, final = (torch.load(folder / f"checkpoint_{name}.pth", weights_only=False) for name in ("best", "final"))
    for checkpoint in (best, final):  # the second epoch, which the third only equals
        assert all(torch.equal(checkpoint["network_weights"][key], value) for key, value in weights[1].items())
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert not all(torch.equal(best["network_weights"][key], value) for key, value in weights[3].items())
    # the validation that nnU-Net runs next uses it as well, and the final checkpoint is not continued from
    assert all(torch.equal(trainer.network.state_dict()[key], value) for key, value in weights[1].items())
    assert (final["current_epoch"], final["kept_epoch"], best["current_epoch"]) == (4, 1, 2)
    printed = capsys.readouterr().out
    assert "learning_rate" in printed and "0.01  (set in the plans)" in printed
    written = json.loads((folder.parent / "plans.json").read_text())["configurations"]["2d_both"]
    assert written["batch_size"] == 2 and written["paper_recipe"]["epochs"] == 4
    assert final["inference_allowed_mirroring_axes"] is None


def another(trainer, **recipe):
    """A trainer for the folder of another one, which has trained."""
    folder = Path(trainer.output_folder).parent
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    plans["configurations"]["2d_both"]["paper_recipe"].update(recipe)
    return type(trainer)({**plans, "continue_training": True}, "2d_both", 0, dataset_json, torch.device("cpu"))


def test_more_epochs_continue_from_the_last_weights_and_a_validation_has_the_kept_ones(make_trainer, monkeypatch):
    recipe = {"epochs": 2, "batch_size": 3, "scales": [1], "iterations_per_epoch": 1}
    first = make_trainer(recipe=recipe)
    weights = run(first, [0.9, 0.5], monkeypatch)

    def is_after(trainer, epoch):
        return all(torch.equal(value, weights[epoch][key]) for key, value in trainer.network.state_dict().items())

    more = another(first, epochs=3)
    more.load_checkpoint(f"{more.output_folder}/checkpoint_final.pth")
    assert is_after(more, 0) and more.current_epoch == 2  # nnU-Net goes on here with --val
    more.on_train_start()
    assert is_after(more, 1)
    assert {int(state["step"]) for state in more.optimizer.state.values()} == {2}


def test_without_checkpoints_the_model_of_a_former_training_is_left_alone(make_trainer, monkeypatch):
    recipe = {"epochs": 1, "batch_size": 3, "scales": [1], "iterations_per_epoch": 1}
    first = make_trainer(recipe=recipe)
    run(first, [0.5], monkeypatch)
    other = another(first)
    folder = Path(other.output_folder)
    (folder / "checkpoint_best.pth.partial").write_bytes(b"of a training that was killed")
    before = {name: (folder / f"checkpoint_{name}.pth").read_bytes() for name in ("best", "final")}
    other.disable_checkpointing = True
    (trained,) = run(other, [0.7], monkeypatch)
    assert all(torch.equal(trained[key], value) for key, value in other.network.state_dict().items())
    assert before == {name: (folder / f"checkpoint_{name}.pth").read_bytes() for name in ("best", "final")}


def test_a_training_that_continues_remembers_the_best_dice(make_trainer, monkeypatch, tmp_path):
    recipe = {"epochs": 3, "batch_size": 3, "scales": [1], "iterations_per_epoch": 1}
    trainer = make_trainer(recipe=recipe)
    trainer.initialize()
    trainer.save_every = 2

    class Killed(Exception):
        pass

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer, "on_train_end", lambda: None)
        original = trainer.on_epoch_start
        patch.setattr(trainer, "on_epoch_start", lambda: original() if trainer.current_epoch < 2 else raise_(Killed))
        run(trainer, [0.9, 0.5], patch)
    folder = tmp_path / "results/Dataset001_Phantom/nnUNetTrainer_XAttnRes_Paper__nnUNetXAttnResPlans__2d_both/fold_0"
    first = torch.load(folder / "checkpoint_best.pth", weights_only=False)["network_weights"]

    again = another(trainer)
    again.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    run(again, [0.7], monkeypatch)  # better than its second epoch, not than its first
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert all(torch.equal(final["network_weights"][key], value) for key, value in first.items())


def raise_(error):
    raise error


def test_emcad_trains_with_the_recipe(make_trainer, monkeypatch):
    recipe = {"epochs": 1, "batch_size": 2, "iterations_per_epoch": 1, "scales": [0.75, 1]}
    trainer = make_trainer(nnUNetTrainer_EMCAD_Paper, recipe=recipe)
    trainer.initialize()
    outputs = []
    trainer.loss.register_forward_pre_hook(lambda _, inputs: outputs.append((len(inputs[0]), len(inputs[1]))))
    run(trainer, [0.5], monkeypatch)
    assert outputs == [(4, 4)] * 3  # two scales, and the validation
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
