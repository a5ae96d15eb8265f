"""What the items compute, on a CPU with the form for CUDA."""

import pytest
import torch

from nnunetv2_xattnres.architectures.xattnres import Kernel, mix_plain, register_kernel
from nnunetv2_xattnres.benchmark.check import correctness, machine, timings
from nnunetv2_xattnres.benchmark.check.items import TINY
from nnunetv2_xattnres.benchmark.check.process import WrongResult


class Collected(dict):
    def __call__(self, **figures):
        self.update(figures)


def test_all_comparisons_are_within_their_bounds():
    report = Collected()
    correctness.check(report, "cpu", "cuda", 60)
    assert report["compared"] == report["of"] == sum(len(c.kinds) for c in correctness.COMPARISONS)
    assert set(report["worst"]) == set(correctness.BOUNDS) and not report["wrong"]
    assert all(0 < worst["error"] < correctness.BOUNDS[dtype] for dtype, worst in report["worst"].items())
    assert sum(report["forms"].values()) == 4 * report["of"]  # twice forward and backward
    assert "Triton" in report["machine"]


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
            correctness.check(report, "cpu", "broken", 60)
    assert any("output" in line for line in report["wrong"])


def test_another_form_than_the_one_for_cuda_is_found(monkeypatch):
    monkeypatch.setattr(correctness, "COMPARISONS", correctness.COMPARISONS[:1])
    register_kernel("cuda again", Kernel())
    monkeypatch.setattr(correctness, "use_kernel", lambda name: timings.use_kernel("cuda again"))
    with pytest.raises(WrongResult, match="the form for CUDA did not compute"):
        correctness.check(Collected(), "cpu", "cuda", 60)


def test_the_comparisons_end_when_their_time_is_up():
    report = Collected()
    correctness.check(report, "cpu", "cuda", 0)
    assert report["compared"] == 1 < report["of"]


def test_an_eager_case_is_measured():
    report = Collected()
    timings.measure(report, TINY["volume-3d"], "cpu", "cuda", False, ("step", "inference", "bandwidth"), 1)
    for what in ("first", "step", "inference", "loss"):
        assert report[what]["base"] > 0 and report[what]["ours"] > 0
    assert report["step"]["ratio"] == pytest.approx(report["step"]["ours"] / report["step"]["base"])
    assert set(report["bandwidth"]) == {"as it lies", "channels_last"}
    # 5 stages, of which the first reads nothing: forward and backward
    assert sum(report["forms"].values()) == 2 * 4 and "memory" not in report


def test_compiled_inference_is_measured_by_itself():
    report = Collected()
    timings.measure(report, TINY["clinicdb-2d"], "cpu", "cuda", True, ("inference",), 1)
    assert set(report) == {"first", "inference", "forms"} and sum(report["forms"].values()) == 4


def test_a_loss_that_is_no_number_is_wrong(monkeypatch):
    step = timings.Training.step
    monkeypatch.setattr(timings.Training, "step", lambda self, x: step(self, x) * float("nan"))
    with pytest.raises(WrongResult, match="not a finite number"):
        timings.measure(Collected(), TINY["volume-3d"], "cpu", "cuda", False, ("step",), 1)


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
