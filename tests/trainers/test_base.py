"""What every trainer of the package does beyond nnU-Net's: seeded draws, portable checkpoints, folds, the log."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from phantom_plans import make_plans

from nnunetv2_xattnres.catalogue import routings
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.trainers import nnUNetTrainer_EMCAD, nnUNetTrainer_XAttnRes, nnUNetTrainer_XAttnRes_Paper

# three images are one batch, of four as of the paper's sixteen
RECIPE = {"epochs": 3, "scales": [1], "batch_size": 4}
MODEL = "results/Dataset001_Phantom/{}__nnUNetXAttnResPlans__2d_both/fold_0"


class Tiny(nnUNetTrainer_XAttnRes):
    """Three epochs of two iterations; remembers every batch and what the network could draw from."""

    epochs, iterations, validation_iterations = 3, 2, 1

    def initialize(self):
        self.enable_deep_supervision = False
        super().initialize()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.seen.append((random.random(), float(np.random.random()), float(torch.rand(()))))

    def train_step(self, batch):
        self.seen.append(batch["data"].double().sum().item())
        return super().train_step(batch)

    def validation_step(self, batch):
        self.seen.append(batch["data"].double().sum().item())
        return super().validation_step(batch)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes trainers on the same few images, each with a results folder of its own."""
    monkeypatch.delenv("XATTNRES_SEED", raising=False)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    plans, dataset_json = make_plans(tmp_path, strides=[[1, 1]] * 3, recipe=RECIPE)

    def maker(trainer=Tiny, fold=0, routing=None):
        plans["configurations"]["2d_both"]["architecture"]["arch_kwargs"]["routing"] = routing
        made = trainer(plans, "2d_both", fold, dataset_json, torch.device("cpu"))
        made.seen = []
        monkeypatch.setattr(made.logger, "plot_progress_png", lambda folder: None)  # seconds for each epoch
        return made

    return maker


class Stopped(Exception):
    pass


def train(trainer, stop_after=None):
    """Train, or be interrupted after so many epochs, with a checkpoint of the last."""

    def end_epoch():
        type(trainer).on_epoch_end(trainer)
        if trainer.current_epoch == stop_after:
            trainer.current_epoch -= 1
            trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
            raise Stopped

    trainer.on_epoch_end = end_epoch
    if stop_after is None:
        trainer.run_training()
    else:
        with pytest.raises(Stopped):
            trainer.run_training()
    for workers in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(workers, "_finish"):
            workers._finish()
    return trainer.seen


class TinyPaper(nnUNetTrainer_XAttnRes_Paper):
    """The paper's loader, whose epochs here are longer than a pass over the data."""

    def get_dataloaders(self):
        self.recipe.__dict__["iterations_per_epoch"] = 5
        return super().get_dataloaders()

    def train_step(self, batch):
        self.seen.append((batch["keys"], batch["data"].double().sum().item()))
        return super().train_step(batch)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [Tiny, TinyPaper])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_seeded_training_that_continues_draws_what_an_uninterrupted_one_draws(make, monkeypatch, trainer, workers):
    monkeypatch.setenv("XATTNRES_SEED", "7")
    monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
    whole = train(make(trainer))
    first = train(make(trainer), stop_after=1)
    later = make(trainer)
    later.load_checkpoint(f"{later.output_folder}/checkpoint_latest.pth")
    assert first + train(later) == whole
    if trainer is Tiny:
        assert len(set(map(str, whole))) == len(whole)  # no batch and no draw twice


@pytest.mark.parametrize("trainer", [Tiny, TinyPaper])
def test_the_number_of_workers_does_not_change_a_batch(make, monkeypatch, trainer):
    monkeypatch.setenv("XATTNRES_SEED", "7")
    alone = train(make(trainer))
    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    assert train(make(trainer)) == alone


def test_processes_and_seeds_draw_different_batches(make, monkeypatch):
    def first_batches(seed, rank):
        monkeypatch.setenv("XATTNRES_SEED", str(seed))
        trainer = make()
        trainer.initialize()
        trainer.local_rank = rank
        loaders = trainer.get_dataloaders()
        return tuple(next(loader)["data"].double().sum().item() for loader in loaders)

    drawn = [first_batches(*pair) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({value for pair in drawn for value in pair}) == 8  # training and validation differ as well
    assert first_batches(1, 0) == drawn[2]


def test_the_papers_passes_go_on_where_an_epoch_is_longer_than_a_pass(make, monkeypatch):
    whole = train(make(TinyPaper))
    train(make(TinyPaper), stop_after=2)
    later = make(TinyPaper)
    later.load_checkpoint(f"{later.output_folder}/checkpoint_latest.pth")
    assert [keys for keys, _ in train(later)] == [keys for keys, _ in whole[10:]]


@pytest.mark.parametrize("trainer", [Tiny, TinyPaper])
def test_every_checkpoint_is_portable_when_it_is_written(make, tmp_path, trainer):
    interrupted = make(trainer)
    train(interrupted, stop_after=1)
    folder = tmp_path / MODEL.format(trainer.__name__)
    names = {"checkpoint_best.pth", "checkpoint_latest.pth"}
    assert {path.name for path in folder.iterdir() if path.name.startswith("checkpoint")} == names
    for name in names:
        checkpoint = torch.load(folder / name, weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert checkpoint["xattnres_trainer_name"] == trainer.__name__
    later = make(trainer)
    later.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert later.current_epoch == 1
    train(later)
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert (final["trainer_name"], final["xattnres_trainer_name"]) == ("nnUNetTrainer", trainer.__name__)


def test_a_checkpoint_that_cannot_be_finished_leaves_the_one_before(make, tmp_path, monkeypatch):
    trainer = make()
    train(trainer, stop_after=1)
    file = tmp_path / MODEL.format("Tiny") / "checkpoint_latest.pth"
    before = file.read_bytes()
    save = torch.save

    def cut(checkpoint, target, *more):
        save(checkpoint, target)
        with open(target, "r+b") as stream:
            stream.truncate(1000)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before


def test_a_training_continues_from_the_checkpoint_before_one_that_was_cut_off(make, tmp_path):
    first = train(make(), stop_after=2)
    folder = tmp_path / MODEL.format("Tiny")
    best = torch.load(folder / "checkpoint_best.pth", weights_only=False)["current_epoch"]
    (folder / "checkpoint_latest.pth").write_bytes((folder / "checkpoint_latest.pth").read_bytes()[:2000])
    later = make()
    later.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert later.current_epoch == best
    assert len(train(later)) > 0 and len(first) > 0
    assert (folder / "checkpoint_final.pth").exists()


def test_no_checkpoint_where_checkpointing_is_off(make, tmp_path):
    trainer = make()
    trainer.disable_checkpointing = True
    train(trainer, stop_after=1)
    assert not list((tmp_path / MODEL.format("Tiny")).glob("checkpoint*"))


@pytest.mark.parametrize("name", [None, "filename_or_checkpoint", "checkpoint", "any_later_name"])
def test_checkpoints_load_whatever_nnunet_calls_the_parameter(make, monkeypatch, name):
    given = []
    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", lambda self, *one, **two: given.append((one, two)))
    made = make(TinyPaper)
    if name is None:
        made.load_checkpoint("file")
        assert given == [(("file",), {})]
    else:
        made.load_checkpoint(**{name: "file"})
        assert given == [((), {name: "file"})]


@pytest.mark.parametrize("name", ["filename_or_checkpoint", "any_later_name"])
def test_emcad_knows_that_it_continues_whatever_nnunet_calls_the_parameter(monkeypatch, name):
    given = []
    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", lambda self, *one, **two: given.append((one, two)))
    trainer = object.__new__(nnUNetTrainer_EMCAD)
    trainer.load_checkpoint(**{name: "file"})
    assert given == [((), {name: "file"})] and trainer._restoring


@pytest.mark.parametrize("trainer", [Tiny, TinyPaper])
@pytest.mark.parametrize("fold", [1, 7, -1])
def test_a_fold_that_the_split_lacks_is_refused(make, trainer, fold):
    made = make(trainer, fold=fold)
    with pytest.raises(InputError, match=rf"Fold {fold} does not exist: .*splits_final.json has fold 0 only.*-f 0"):
        made.run_training()


def test_a_later_fold_is_refused_also_where_nnunet_is_about_to_make_five(make, tmp_path):
    splits = tmp_path / "preprocessed/Dataset001_Phantom/splits_final.json"
    splits.unlink()
    with pytest.raises(InputError, match=r"Fold 5 does not exist.*about to make, has folds 0 to 4.*-f 0 1 2 3 4"):
        make(fold=5).do_split()
    assert not splits.exists()
    assert len(make(fold=4).do_split()[1]) == 1
    assert len(json.loads(splits.read_text())) == 5


def test_a_split_is_nnunets_and_is_never_seen_in_part(make, tmp_path):
    splits = tmp_path / "preprocessed/Dataset001_Phantom/splits_final.json"
    trainer, sizes = make(fold=2), set()
    splits.unlink()
    nnUNetTrainer.do_split(trainer)
    expected = splits.read_bytes()
    splits.unlink()

    def look(frame, event, argument):  # what another training would find, after every line that runs
        if splits.exists():
            sizes.add(splits.stat().st_size)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        trainer.do_split()
    finally:
        sys.settrace(before)
    assert len(sizes) == 1  # never empty, never a part
    assert json.loads(splits.read_bytes()) == json.loads(expected)


def test_too_few_cases_for_five_folds_are_nnunets_own_error(make, tmp_path):
    folder = tmp_path / "preprocessed/Dataset001_Phantom"
    (folder / "splits_final.json").unlink()
    trainer = make()
    for file in Path(trainer.preprocessed_dataset_folder).glob("[ab]*"):
        file.unlink()
    with pytest.raises(ValueError, match="n_splits=5"):
        trainer.do_split()


def test_folds_that_exist_and_all_cases_are_trained(make):
    assert make().do_split() == (list("abc"), list("de"))
    training, validation = make(fold="all").do_split()
    assert list(training) == list(validation) == list("abcde")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"train": ["a"', "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("{}", "not a list of folds"),
        ("null", "not a list of folds"),
        ("[]", "not a list of folds"),
        ("[5]", "fold 0 is 5"),
        ('[{"train": ["a"], "val": []}]', "fold 0 has no case under val"),
        ('[{"train": ["a"], "val": ["b"]}, {"train": "a", "val": ["b"]}]', "fold 1 has no list of names under train"),
    ],
)
def test_a_split_file_that_cannot_be_used_is_named(make, tmp_path, content, said):
    splits = tmp_path / "preprocessed/Dataset001_Phantom/splits_final.json"
    splits.write_text(content)
    with pytest.raises(InputError, match=said) as raised:
        make().do_split()
    assert str(splits) in str(raised.value)


def log_of(trainer):
    return Path(trainer.log_file).read_text()


@pytest.mark.parametrize(("variant", "readers"), [("both", 8), ("encoder", 4), ("decoder", 4), ("noskip", 0)])
def test_the_log_names_routing_readers_and_parameters(make, variant, readers):
    trainer = make(routing=routings()[variant])
    trainer.on_train_start()
    (line,) = [line for line in log_of(trainer).splitlines() if "Network PaperUNet" in line]
    assert f"routing {variant} (" in line
    assert f": {readers} XAttnRes readers, " in line
    assert f"{sum(p.numel() for p in trainer.network.parameters()):,} parameters" in line


class Spoiled(Tiny):
    """From the second epoch on, the images are not finite."""

    value = float("nan")

    def train_step(self, batch):
        if self.current_epoch == 1:
            batch["data"] = batch["data"] * self.value
        return super().train_step(batch)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_whose_weights_are_lost_stops_and_keeps_its_checkpoints(make, tmp_path, monkeypatch, value):
    monkeypatch.setattr(Spoiled, "value", value)
    trainer = make(Spoiled)
    with pytest.raises(InputError, match=r"Epoch 1: the network's weights are no longer finite"):
        trainer.run_training()
    assert "WARNING: epoch 1: the loss of 2 of 2 iterations is not a finite" in log_of(trainer)
    assert "ERROR: Epoch 1" in log_of(trainer)
    for file in (tmp_path / MODEL.format("Spoiled")).glob("checkpoint*"):
        weights = torch.load(file, weights_only=False)["network_weights"]
        assert all(value.isfinite().all() for value in weights.values())


def test_single_losses_that_are_not_finite_are_logged_and_the_training_goes_on(make):
    trainer = make()
    trainer.initialize()
    trainer._check_finite([0.5, float("inf"), 0.5])
    assert "epoch 0: the loss of 1 of 3 iterations is not a finite" in log_of(trainer)
    with pytest.raises(InputError, match="no loss was a finite number"):  # under mixed precision, weights may be whole
        trainer._check_finite([float("nan")] * 3)


@pytest.mark.parametrize("trainer", [nnUNetTrainer_XAttnRes, nnUNetTrainer_XAttnRes_Paper, nnUNetTrainer_EMCAD])
def test_plans_for_weights_that_no_trainer_here_loads_are_refused(tmp_path, trainer):
    plans, dataset_json = make_plans(tmp_path)
    plans["pretrain_info"] = {"checkpoint_name": "mae"}
    with pytest.raises(InputError, match=r"nnUNetXAttnResPlans has pretrain_info.*nnunetv2_xattnres warmstart"):
        trainer(plans, "2d_both", 0, dataset_json, torch.device("cpu"))
