"""What the items compute, on a CPU with the form for CUDA."""

import pytest
import torch
from nnunetv2.run import run_training

from nnunetv2_xattnres.architectures.xattnres import Kernel, mix_plain, register_kernel
from nnunetv2_xattnres.benchmark.check import correctness, machine, timings, training
from nnunetv2_xattnres.benchmark.check.items import DTYPES, TINY
from nnunetv2_xattnres.benchmark.check.process import WrongResult


class Collected(dict):
    """A report without a process."""

    def __call__(self, **figures):
        self.update(figures)

    def wait_for_turn(self):
        self["before its turn"] = sorted(self)

    def paused(self):
        return 0.0


def test_all_comparisons_are_within_their_bounds():
    compared = 0
    assert tuple(correctness.BOUNDS) == DTYPES
    for dtype, bound in correctness.BOUNDS.items():
        report = Collected()
        correctness.check(report, "cpu", "cuda", dtype, 60)
        assert report["compared"] == report["of"] > 0 and not report["wrong"]
        assert report["worst"]["dtype"] == dtype and 0 < report["worst"]["error"] < bound
        assert sum(report["forms"].values()) == 4 * report["of"]  # twice forward and backward
        assert "Triton" in report["machine"]
        compared += report["compared"]
    assert compared == sum(len(comparison.kinds) for comparison in correctness.COMPARISONS)


@pytest.mark.parametrize("fault", ["too large", "not finite", "not the same twice"])
def test_a_wrong_form_is_found(fault):
    def mix(*arguments):
        out = mix_plain(*arguments)
        if fault == "not the same twice":
            return out + 1e-7 * torch.rand_like(out)
        return out * (1.001 if fault == "too large" else float("nan"))

    register_kernel("broken", Kernel(mix=mix))
    report = Collected()
    comparison = correctness.COMPARISONS[0]._replace(kinds=(("float32", "contiguous"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correctness, "COMPARISONS", (comparison,))
        with pytest.raises(WrongResult, match="beyond their bound"):
            correctness.check(report, "cpu", "broken", "float32", 60)
    assert any("output" in line for line in report["wrong"])


def test_another_form_than_the_one_for_cuda_is_found(monkeypatch):
    monkeypatch.setattr(correctness, "COMPARISONS", correctness.COMPARISONS[:1])
    register_kernel("cuda again", Kernel())
    monkeypatch.setattr(correctness, "use_kernel", lambda name: timings.use_kernel("cuda again"))
    with pytest.raises(WrongResult, match="the form for CUDA did not compute"):
        correctness.check(Collected(), "cpu", "cuda", "float16", 60)


def test_the_comparisons_end_when_their_time_is_up():
    report = Collected()
    correctness.check(report, "cpu", "cuda", "float16", 0)
    assert report["compared"] == 1 < report["of"]


def test_an_eager_case_is_measured():
    report = Collected()
    timings.measure(report, TINY["volume-3d"], "cpu", "cuda", False, ("step", "inference", "bandwidth"), 1)
    for what in ("first", "step", "inference", "loss"):
        assert report[what]["base"] > 0 and report[what]["ours"] > 0
    assert report["step"]["ratio"] == pytest.approx(report["step"]["ours"] / report["step"]["base"])
    assert report["before its turn"] == ["first"]
    assert set(report["bandwidth"]) == {"as it lies", "channels_last"}
    # 5 stages, of which the first reads nothing: forward and backward
    assert sum(report["forms"].values()) == 2 * 4 and "memory" not in report


def test_compiled_inference_is_measured_by_itself():
    report = Collected()
    timings.measure(report, TINY["clinicdb-2d"], "cpu", "cuda", True, ("inference",), 1)
    assert set(report) == {"first", "before its turn", "inference", "forms"} and sum(report["forms"].values()) == 4


def test_a_pause_is_no_part_of_a_first_call(monkeypatch):
    report, pauses = Collected(), iter([0, 1000, 1000, 3000])
    monkeypatch.setattr(report, "paused", lambda: next(pauses))
    timings.measure(report, TINY["volume-3d"], "cpu", "cuda", False, ("inference",), 1)
    assert -1000 < report["first"]["base"] < 0 and -2000 < report["first"]["ours"] < -1000


def test_a_loss_that_is_no_number_is_wrong(monkeypatch):
    step = timings.Training.step
    monkeypatch.setattr(timings.Training, "step", lambda self, x: step(self, x) * float("nan"))
    with pytest.raises(WrongResult, match="not a finite number"):
        timings.measure(Collected(), TINY["volume-3d"], "cpu", "cuda", False, ("step",), 1)


class Trainer:
    """Trains as nnU-Net's, whose loop calls ``on_epoch_start``; each epoch takes five seconds of the logged time."""

    current_epoch, num_epochs, loss = 0, 1000, 0.5

    def __init__(self, *_, **__):
        self.logger, self.log = self, {name: [] for name in ("train_losses", "val_losses")}
        self.log |= {f"epoch_{name}_timestamps": [] for name in ("start", "end")}

    def on_epoch_start(self):
        self.log["epoch_start_timestamps"].append(10 * self.current_epoch)

    def run_training(self):
        while self.current_epoch < self.num_epochs:
            self.on_epoch_start()
            self.log["epoch_end_timestamps"].append(10 * self.current_epoch + 5)
            self.log["train_losses"].append(self.loss)
            self.log["val_losses"].append(self.loss)
            self.current_epoch += 1

    def get_value(self, name, step):
        return self.log[name]


def test_a_training_waits_for_its_turn_before_its_second_epoch(monkeypatch):
    report, trainer, pauses = Collected(), Trainer(), iter([1, 3])
    monkeypatch.setattr(run_training, "get_trainer_from_args", lambda *_, **__: trainer)
    monkeypatch.setattr(report, "paused", lambda: next(pauses))
    monkeypatch.setattr(report, "wait_for_turn", lambda: report(epochs_before=len(trainer.log["epoch_end_timestamps"])))
    training.train(report, "nnUNetTrainer", "cpu", None, 5)
    assert report["epochs_before"] == 1 and report["epochs"] == [5 - 2, 5]  # without the pause in the first one


def test_a_training_without_a_finite_loss_is_wrong(monkeypatch):
    monkeypatch.setattr(Trainer, "loss", float("nan"))
    monkeypatch.setattr(run_training, "get_trainer_from_args", Trainer)
    with pytest.raises(WrongResult, match="not a finite number"):
        training.train(Collected(), "nnUNetTrainer", "cpu", None, 5)


def test_memory_is_what_a_network_needs_by_itself(monkeypatch):
    training = timings.Training(TINY["volume-3d"], "both", "cpu", False)
    x = torch.rand(TINY["volume-3d"].shape)
    training.step(x)
    for name, value in (("synchronize", None), ("reset_peak_memory_stats", None), ("memory_allocated", 10**9),
                        ("max_memory_allocated", 10**9 + 12345)):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    weights = sum(parameter.nbytes for parameter in training.network.parameters())
    assert training.peak_memory(x) == 2 * weights + x.nbytes + 12345  # with the momentum
    assert all(parameter.grad is None for parameter in training.network.parameters())


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (79 * 2**30, 80 * 2**30))
    text = machine.describe("cuda")
    assert text.startswith("A card (sm_90, 79 of 80 GiB free), CUDA ") and f"torch {torch.__version__}, Triton " in text
