"""Compares outputs and gradients of XAttnRes with the literal equations in float64, and finds the form that ran."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures import XAttnRes, use_kernel
from nnunetv2_xattnres.architectures.kernels.available import forms_used, reader_forms
from nnunetv2_xattnres.benchmark.check.machine import describe, why_no_triton
from nnunetv2_xattnres.benchmark.check.process import Report, WrongResult
from nnunetv2_xattnres.benchmark.literal import make_literal

BOUNDS = {"float16": 2e-3, "bfloat16": 1.5e-2, "float32": 1e-5}  # of the relative error in norm, per tensor
LAYOUTS = ("channels_last", "contiguous")


class Comparison(NamedTuple):
    """One reader: its current feature, its history, and the scale of the values."""

    text: str
    size: tuple[int, ...]
    channels: int
    history: tuple[tuple[int, tuple[int, ...]], ...]  # channels and size of each entry
    kinds: tuple[tuple[str, str], ...]  # dtype and layout
    values: float = 1.0
    zeros: bool = False  # one row of pixels is zero in every channel


ALL = tuple((dtype, layout) for dtype in BOUNDS for layout in LAYOUTS)
# Each width, layout and dtype needs another kernel, and compiling these takes most of the time.
COMPARISONS = (
    Comparison("2D, pixels of zero", (9, 10), 32, ((32, (9, 10)), (32, (3, 5))),
               (("float16", "contiguous"), ("bfloat16", "channels_last"), ("float32", "contiguous")), zeros=True),
    Comparison("2D, ratios 2 to 64", (64, 32), 32,
               ((32, (1, 1)), (64, (4, 8)), (32, (32, 16)), (16, (64, 32)), (32, (128, 64))), ALL),
    Comparison("3D", (8, 16, 16), 32,
               ((32, (4, 8, 8)), (64, (1, 1, 1)), (16, (8, 16, 16)), (32, (16, 32, 32))), ALL),
    Comparison("2D, values up to 4e4", (16, 20), 32, ((32, (1, 1)), (32, (8, 10)), (32, (16, 20))),
               (("float16", "channels_last"), ("float16", "contiguous")), values=1e4),
    Comparison("2D, odd ratios, 36 channels", (19, 23), 36,
               ((36, (7, 5)), (18, (3, 22)), (36, (18, 1)), (36, (38, 46))),
               (("float16", "channels_last"), ("float32", "contiguous"))),
    Comparison("2D, 320 channels", (8, 12), 320, ((320, (4, 6)), (123, (8, 12))),
               (("float16", "contiguous"), ("bfloat16", "channels_last"))),
    Comparison("3D, anisotropic, 6 channels", (5, 12, 10), 6,
               ((6, (5, 6, 5)), (18, (3, 12, 10)), (6, (5, 24, 20))),
               (("bfloat16", "contiguous"), ("float32", "channels_last"))),
)  # fmt: skip


def check(report: Report, device: str, kernel: str | None, dtype: str, seconds: float) -> None:
    """Compare in one dtype, and report ``machine``, ``compared``, ``of``, ``worst``, ``wrong`` and ``forms``.

    Args:
        report: Gets the figures.
        device: ``cuda`` or ``cpu``.
        kernel: The form to force; ``None`` is the device's default.
        dtype: One of ``BOUNDS``.
        seconds: Time after which no further comparison starts.

    Raises:
        WrongResult: an error is above its bound, two runs differ, or another form than that of the device computed.
    """
    torch.set_float32_matmul_precision("highest")  # some containers switch on TF32, which is not float32
    no_triton = why_no_triton()
    report(machine=describe(device), no_triton=no_triton)
    start, compared, wrong = time.monotonic(), 0, []
    worst: dict[str, Any] = {}
    forms: dict[str, int] = {}
    forms_used.clear()
    chosen = [(one, layout) for one in COMPARISONS for kind, layout in one.kinds if kind == dtype]
    for comparison, layout in chosen:
        if compared and time.monotonic() - start > seconds:
            break
        with use_kernel(kernel):
            errors = dict(compare(comparison, dtype, layout, device))
        compared += 1
        tensor = max(errors, key=errors.__getitem__)
        if not worst or errors[tensor] > worst["error"]:
            where = f"{comparison.text}, {layout}: {tensor}"
            worst = {"dtype": dtype, "error": errors[tensor], "bound": BOUNDS[dtype], "where": where}
        wrong += [f"{dtype}, {layout}, {comparison.text}: {name} is off by {error:.1e}"
                  for name, error in errors.items() if not error <= BOUNDS[dtype]]  # fmt: skip
        forms = reader_forms()
        report(compared=compared, of=len(chosen), worst=worst, wrong=wrong, forms=forms)
    if wrong:
        raise WrongResult(f"{len(wrong)} tensors are beyond their bound, the first: {wrong[0]}")
    if device == "cuda" and kernel is None and set(forms) - {"Triton"} and not no_triton:
        raise WrongResult(f"Triton is installed, and yet its kernels did not compute all: {forms}")
    if kernel in (None, "cuda") and sum(forms.values()) < 4 * compared and (device == "cuda" or kernel):
        raise WrongResult(f"the form for CUDA did not compute all: {forms}")


def compare(comparison: Comparison, dtype: str, layout: str, device: str) -> Iterator[tuple[str, float]]:
    """The relative error of the output and of each gradient; infinite if two runs differ."""
    torch.manual_seed(0)
    dims = len(comparison.size)
    widths = [width for width, _ in comparison.history]
    module = XAttnRes(widths, comparison.channels, nn.Conv2d if dims == 2 else nn.Conv3d)
    nn.init.normal_(module.query, std=comparison.channels**-0.5)
    nn.init.uniform_(module.norm_weight, 0.5, 1.5)
    exact = make_literal(deepcopy(module)).double().to(device)
    module.to(device)
    sizes = [*comparison.history, (comparison.channels, comparison.size)]
    features = [_feature(width, size, comparison).to(getattr(torch, dtype)).to(device) for width, size in sizes]
    wanted = [feature.double().requires_grad_() for feature in features]
    if layout == "channels_last":
        memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
        features = [feature.contiguous(memory_format=memory_format) for feature in features]
    leaves = [feature.requires_grad_() for feature in features] + list(module.parameters())
    want = exact(wanted[:-1], wanted[-1])
    upstream = torch.randn(want.shape).to(getattr(torch, dtype)).to(device)
    wants = [want, *torch.autograd.grad(want, [*wanted, *exact.parameters()], upstream.double())]
    first, again = ([out, *torch.autograd.grad(out, leaves, upstream)]
                    for out in (module(features[:-1], features[-1]) for _ in range(2)))  # fmt: skip
    names = ["output", *(f"gradient of entry {i}" for i in range(len(features)))]
    names += [f"gradient of {name}" for name, _ in module.named_parameters()]
    for name, a, b, exactly in zip(names, first, again, wants, strict=True):
        yield name, _error(a, exactly) if torch.equal(a, b) else math.inf


def _feature(width: int, size: Sequence[int], comparison: Comparison) -> Tensor:
    """Random values. No two values in a pooling window of two are equal, so that each maximum is unique."""
    feature = torch.randn(2, width, *size).mul_(comparison.values)
    if any(have > want for have, want in zip(size, comparison.size, strict=True)):
        rank = torch.zeros(size)
        for axis, length in enumerate(size):
            shape = [-1 if other == axis else 1 for other in range(len(size))]
            rank = rank + (torch.arange(length) % 2 * 2**axis).view(shape)
        sign = torch.randint(0, 2, (2, width, *[1] * len(size))) * 2 - 1
        feature = rank * sign + feature.clamp(-3, 3) / 10
    if comparison.zeros:
        feature[:, :, 0] = 0
    return feature


def _error(got: Tensor, want: Tensor) -> float:
    """The relative error in norm; infinite if a number is not finite."""
    if not got.isfinite().all():
        return math.inf
    return ((got.double() - want).norm() / want.norm()).item()
