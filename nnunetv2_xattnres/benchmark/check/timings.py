"""Measures base and ours in training as in nnU-Net: first call, step, peak memory, inference, bandwidth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures import use_kernel
from nnunetv2_xattnres.architectures.kernels.available import forms_used, reader_forms
from nnunetv2_xattnres.benchmark.bandwidth import bandwidth
from nnunetv2_xattnres.benchmark.cases import ROUTINGS, Case, build
from nnunetv2_xattnres.benchmark.check.process import Report, WrongResult
from nnunetv2_xattnres.benchmark.timing import seconds

CALLS = {"step": "step", "inference": "infer"}  # the method of Training for each part
WARM_UP = 3  # calls between the first one and the timed ones


class Training:
    """A network with nnU-Net's optimiser, mixed precision and clipping.

    Args:
        case: The network and its input.
        routing: Name of the variant.
        device: ``cuda`` (float16 autocast) or ``cpu``.
        compiled: Compile the network. On a CPU it is only traced, because Inductor needs a C++ compiler there.
    """

    def __init__(self, case: Case, routing: str, device: str, compiled: bool) -> None:
        torch.manual_seed(0)
        self.cuda = device == "cuda"
        self.network = build(case, routing).to(device)
        backend = "inductor" if self.cuda else "eager"
        self.run = torch.compile(self.network, backend=backend) if compiled else self.network
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), 1e-3, weight_decay=3e-5, momentum=0.99, nesterov=True
        )
        self.scaler = torch.amp.GradScaler(device, enabled=self.cuda)

    def step(self, x: Tensor) -> Tensor:
        """One training step; returns the loss."""
        self._set(training=True)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.cuda):
            loss = sum(output.float().square().mean() for output in self.run(x))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def infer(self, x: Tensor) -> None:
        """One forward pass as in a prediction."""
        self._set(training=False)
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, enabled=self.cuda):
            self.run(x)

    def peak_memory(self, x: Tensor) -> int:
        """Peak bytes of a step, without the memory of other networks; no network may hold gradients."""
        buffers = [
            value for state in self.optimizer.state.values() for value in state.values() if torch.is_tensor(value)
        ]
        own = sum(t.nbytes for t in [*self.network.parameters(), *self.network.buffers(), *buffers, x])
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.step(x)
        torch.cuda.synchronize()
        self.optimizer.zero_grad(set_to_none=True)
        return own + torch.cuda.max_memory_allocated() - before

    def _set(self, *, training: bool) -> None:
        self.network.train(training)
        self.network.decoder.deep_supervision = training  # type: ignore[union-attr]


def measure(
    report: Report,
    case: Sequence,
    device: str,
    kernel: str | None,
    compiled: bool,
    parts: Sequence[str],
    rounds: int,
) -> None:
    """Measure one case, given as the values of a :class:`Case`; report each figure as soon as it is known.

    ``parts`` names the measurements: ``step`` (with ``memory``), ``inference``, ``bandwidth``. The forms are ``base``
    and ``ours``, which take turns in each of ``rounds``. Times are medians in seconds, as callers wait. ``first`` is
    the first call of the first part, while other items are prepared. Everything else is measured after all calls were
    made once, when it is this item's turn. ``forms`` counts the forms that computed the readers of ours in one step or
    forward pass. Bandwidths are in bytes per second.

    Raises:
        WrongResult: a loss is not a finite number.
    """
    torch.backends.cudnn.benchmark = True
    cuda = device == "cuda"
    network_and_input = Case(*case)
    x = torch.rand(tuple(network_and_input.shape), device=device)
    with use_kernel(kernel):
        first: dict[str, float] = {}
        trainings: dict[str, Training] = {}
        for form, routing in ROUTINGS.items():
            trainings[form] = training = Training(network_and_input, routing, device, compiled)
            calls = [partial(getattr(training, CALLS[part]), x) for part in parts if part in CALLS]
            paused = report.paused()
            first[form] = seconds(calls[0], cuda) - (report.paused() - paused)
            report(first=first)
            for call in calls:
                _warm_up(call, cuda)
        if "bandwidth" in parts:
            _bandwidths(trainings["ours"].network, x, 1)
        _free(trainings, cuda)
        report.wait_for_turn()

        if "step" in parts:
            report(step=_in_turns({form: partial(t.step, x) for form, t in trainings.items()}, cuda, rounds))
            report(forms=_forms_of(partial(trainings["ours"].step, x)))
            losses = {form: training.step(x).item() for form, training in trainings.items()}
            report(loss=losses)
            if not all(map(math.isfinite, losses.values())):
                raise WrongResult(f"a loss is not a finite number: {losses}")
            _free(trainings, cuda)
            if cuda:
                report(memory={form: training.peak_memory(x) for form, training in trainings.items()})
        if "inference" in parts:
            report(inference=_in_turns({form: partial(t.infer, x) for form, t in trainings.items()}, cuda, rounds))
            if "step" not in parts:
                report(forms=_forms_of(partial(trainings["ours"].infer, x)))
        if "bandwidth" in parts:
            report(bandwidth=_bandwidths(trainings["ours"].network, x, rounds))


def _free(trainings: Mapping[str, Training], cuda: bool) -> None:
    """Give up gradients, and the memory that PyTorch keeps for later."""
    for training in trainings.values():
        training.optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.empty_cache()


def _bandwidths(network: nn.Module, x: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    formats = {"as it lies": torch.preserve_format, "channels_last": channels_last}
    return {
        name: bandwidth(network, x.shape, x.device.type, rounds, memory_format)
        for name, memory_format in formats.items()
    }


def _warm_up(call: Callable[[], object], cuda: bool) -> None:
    for _ in range(WARM_UP if cuda else 1):
        call()


def _in_turns(calls: Mapping[str, Callable[[], object]], cuda: bool, rounds: int) -> dict[str, float]:
    """Median seconds of each call; ``ratio`` is the median of the rounds' ratios."""
    for call in calls.values():
        _warm_up(call, cuda)
    times: dict[str, list[float]] = {form: [] for form in calls}
    for _ in range(rounds):
        for form, call in calls.items():
            times[form].append(seconds(call, cuda))
    ratio = median(ours / base for ours, base in zip(times["ours"], times["base"], strict=True))
    return {**{form: median(taken) for form, taken in times.items()}, "ratio": ratio}


def _forms_of(call: Callable[[], object]) -> dict[str, int]:
    forms_used.clear()
    call()
    return reader_forms()
