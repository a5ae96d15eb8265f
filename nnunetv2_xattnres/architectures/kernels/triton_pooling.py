"""Max pooling over windows that do not overlap, as two Triton kernels for an NVIDIA GPU.

PyTorch's own keeps the position of every maximum in 64 bits, four times the memory of the pooled half-precision map,
and spreads gradients with atomics. Here the backward pass finds the maxima again and writes every element once.

A tensor is ``[N, D, H, W, I]``: contiguous ones have N = B C and I = 1, those in channels_last N = B and I = C.
"""
# ruff: noqa: ANN001, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels.triton_launch import ceil_div

BLOCK = 512
MAX_ELEMENTS = 2**31 - 1  # positions are 32-bit numbers: divisions of wider ones are slow


@triton.jit
def _corners(H, W, I, COUNT, WD: tl.constexpr, WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr):  # noqa: E741
    """Numbers of a program's windows, where each begins, and which of them exist."""
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inner = window % I
    column = window // I % (W // WW)
    line = window // I // (W // WW)  # D is a whole number of windows, so N and D are counted as one
    row = line % (H // WH)
    depth = line // (H // WH)
    corner = ((depth * WD * H + row * WH) * W + column * WW) * I + inner
    return window, corner, window < COUNT


@triton.jit
def _pool_kernel(
    feature, out, H, W, I, COUNT,  # noqa: E741
    WD: tl.constexpr, WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    window, corner, inside = _corners(H, W, I, COUNT, WD, WH, WW, BLOCK)
    largest = tl.load(feature + corner, mask=inside, other=0.0)
    for each in range(1, WD * WH * WW):
        offset = ((each // (WH * WW) * H + each // WW % WH) * W + each % WW) * I
        value = tl.load(feature + corner + offset, mask=inside, other=0.0)
        largest = tl.where((value > largest) | (value != value), value, largest)
    tl.store(out + window, largest, mask=inside)


@triton.jit
def _unpool_kernel(
    feature, grad, gradient, H, W, I, COUNT,  # noqa: E741
    WD: tl.constexpr, WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    window, corner, inside = _corners(H, W, I, COUNT, WD, WH, WW, BLOCK)
    upstream = tl.load(grad + window, mask=inside, other=0.0)
    largest = tl.load(feature + corner, mask=inside, other=0.0)
    at = tl.zeros([BLOCK], tl.int32)
    for each in range(1, WD * WH * WW):
        offset = ((each // (WH * WW) * H + each // WW % WH) * W + each % WW) * I
        value = tl.load(feature + corner + offset, mask=inside, other=0.0)
        better = (value > largest) | (value != value)
        largest = tl.where(better, value, largest)
        at = tl.where(better, each, at)
    for each in range(WD * WH * WW):
        offset = ((each // (WH * WW) * H + each // WW % WH) * W + each % WW) * I
        tl.store(gradient + corner + offset, tl.where(at == each, upstream, 0.0), mask=inside)


def max_pool(feature: Tensor, out: Tensor, window: Sequence[int]) -> None:
    """Write the maxima of ``feature``, ``[B, C, *S]``, to ``out``; both contiguous or both in channels_last."""
    _launch(_pool_kernel, (feature, out), feature, window)


def max_pool_backward(feature: Tensor, grad: Tensor, gradient: Tensor, window: Sequence[int]) -> None:
    """Write the gradient of ``feature``: that of each window goes to the first of its maxima."""
    _launch(_unpool_kernel, (feature, grad, gradient), feature, window)


def _launch(kernel: triton.JITFunction, tensors: Sequence[Tensor], feature: Tensor, window: Sequence[int]) -> None:
    inner = 1 if feature.is_contiguous() else feature.shape[1]
    count = feature.numel() // math.prod(window)
    depth = (1, *window)[-3:]  # images are one slice deep
    with torch.cuda.device_of(feature):
        kernel[(ceil_div(count, BLOCK),)](*tensors, *feature.shape[-2:], inner, count, *depth, BLOCK)
