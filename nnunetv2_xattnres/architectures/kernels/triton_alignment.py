"""Projection and enlargement (eq. 4) of all smaller entries of a reader in one launch, and their gradients in two.

The same as ``matrices.py`` in half precision, whose many small products keep a processor busier than a GPU. Rows, the
first spatial axis, are enlarged by ``triton_kernels.py``. So here an entry keeps its rows. Along the other axes it is
enlarged to the output's ``PY`` by ``W`` pixels (an image has PY = 1).

A program makes some pixels of one line: it projects the few source pixels that they lie between, and enlarges these by
a product with a small matrix of interpolation weights, all with sums in float32. Entries have any order in memory.
"""
# ruff: noqa: ANN001, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels.triton_kernels import _entry, _table

GROUPS = 64  # parts of the sum over all pixels in the gradient of a weight

# What is known of an entry, a row of the table of numbers: its size and strides, C_k, the number of its weight or -1,
# and the place of its weight's gradient among all.
_NUMBERS = 11


@triton.jit
def _number(numbers, index, which: tl.constexpr):
    return tl.load(numbers + index * 11 + which)


@triton.jit
def _position(target, have, want):
    """Where a target pixel lies among ``have`` source pixels, in units of ``1 / (2 want)``: whole numbers, exact."""
    return tl.minimum(tl.maximum((2 * target + 1) * have - want, 0), (have - 1) * 2 * want)


@triton.jit
def _read(pointer, offsets, below, far, mask, DEPTH: tl.constexpr, dtype: tl.constexpr):
    """Source pixels; in 3D, those of two lines of a slice, blended."""
    value = tl.load(pointer + offsets, mask=mask, other=0.0)
    if DEPTH:
        other = tl.load(pointer + offsets + below, mask=mask, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) * (1.0 - far) + other * far).to(dtype)
    return value


@triton.jit
def _enlarge_kernel(
    table, numbers, like, weight_like, PY, W, SMALL, WEIGHTS,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """``table``: SMALL features, WEIGHTS weights, SMALL results ``[B, h, PY, W, C]``."""
    dtype: tl.constexpr = like.dtype.element_ty
    line = tl.program_id(0)
    index = 0
    height = _number(numbers, 0, 0).to(tl.int32)
    while line >= height * PY:
        line -= height * PY
        index += 1
        height = _number(numbers, index, 0).to(tl.int32)
    row, y = line // PY, line % PY
    have_y = _number(numbers, index, 1).to(tl.int32)
    have_x = _number(numbers, index, 2).to(tl.int32)
    width = _number(numbers, index, 3).to(tl.int32)
    of_channel = _number(numbers, index, 5)
    of_y = _number(numbers, index, 7)
    of_x = _number(numbers, index, 8)
    weight_index = _number(numbers, index, 9).to(tl.int32)
    feature = _entry(table, index, like)
    weight = _entry(table, SMALL + tl.maximum(weight_index, 0), weight_like)
    image = tl.program_id(2).to(tl.int64)
    start = image * _number(numbers, index, 4) + row * _number(numbers, index, 6)
    position_y = _position(y, have_y, PY)
    upper = position_y // (2 * PY)
    far = (position_y - upper * 2 * PY).to(tl.float32) / (2 * PY)
    start += upper * of_y
    below = tl.where(upper + 1 < have_y, of_y, 0)

    across = tl.cdiv(W, BLOCK_X)
    first_x = tl.program_id(1) % across * BLOCK_X
    x = first_x + tl.arange(0, BLOCK_X)
    channel = tl.program_id(1) // across * BLOCK_C + tl.arange(0, BLOCK_C)
    position = _position(x, have_x, W)
    first = _position(first_x, have_x, W) // (2 * W)
    last = tl.minimum(_position(tl.minimum(first_x + BLOCK_X, W) - 1, have_x, W) // (2 * W) + 2, have_x)
    enlarged = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    for source in range(first, last, BLOCK_S):
        s = source + tl.arange(0, BLOCK_S)
        at = start + s * of_x
        projected = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        if weight_index >= 0:
            for k in range(0, width, BLOCK_K):
                own = k + tl.arange(0, BLOCK_K)
                value = _read(feature, at[:, None] + own[None, :] * of_channel, below, far,
                              (s < have_x)[:, None] & (own < width)[None, :], DEPTH, dtype)  # fmt: skip
                factors = tl.load(weight + channel[None, :] * width + own[:, None],
                                  mask=(own < width)[:, None] & (channel < C)[None, :], other=0.0)  # fmt: skip
                projected = tl.dot(value, factors.to(dtype), projected)
        else:
            value = _read(feature, at[:, None] + channel[None, :] * of_channel, below, far,
                          (s < have_x)[:, None] & (channel < C)[None, :], DEPTH, dtype)  # fmt: skip
            projected = value.to(tl.float32)
        distance = tl.abs(position[:, None] - s[None, :] * (2 * W)).to(tl.float32) / (2 * W)
        share = tl.maximum(1.0 - distance, 0.0).to(dtype)
        enlarged = tl.dot(share, projected.to(dtype), enlarged)
    out = _entry(table, SMALL + WEIGHTS + index, like)
    place = ((image * height + row) * PY + y) * W + x
    tl.store(out + place[:, None] * C + channel[None, :], enlarged.to(dtype),
             mask=(x < W)[:, None] & (channel < C)[None, :])  # fmt: skip


@triton.jit
def _reduce_kernel(
    table, numbers, like, weight_like, PY, W, SMALL, WEIGHTS,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """``table``: SMALL upstream gradients like the results above, WEIGHTS weights, SMALL gradients of the features in
    their order in memory, WEIGHTS gradients of projected features, ``[B, h, py, w, C]``."""  # fmt: skip
    dtype: tl.constexpr = like.dtype.element_ty
    line = tl.program_id(0)
    index = 0
    height = _number(numbers, 0, 0).to(tl.int32)
    have_y = _number(numbers, 0, 1).to(tl.int32)
    while line >= height * have_y:
        line -= height * have_y
        index += 1
        height = _number(numbers, index, 0).to(tl.int32)
        have_y = _number(numbers, index, 1).to(tl.int32)
    row, y = line // have_y, line % have_y
    have_x = _number(numbers, index, 2).to(tl.int32)
    source = tl.program_id(1) * BLOCK_S
    if source < have_x:
        width = _number(numbers, index, 3).to(tl.int32)
        weight_index = _number(numbers, index, 9).to(tl.int32)
        image = tl.program_id(2).to(tl.int64)
        upstream = _entry(table, index, like)
        channel = tl.arange(0, BLOCK_C)
        s = source + tl.arange(0, BLOCK_S)
        reduced = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        first_y, last_y = y, y + 1
        if DEPTH:
            first_y = tl.maximum(((2 * y - 1) * PY) // (2 * have_y) - 1, 0)
            last_y = tl.minimum(((2 * y + 3) * PY) // (2 * have_y) + 2, PY)
        first_x = tl.maximum(((2 * source - 1) * W) // (2 * have_x) - 1, 0)
        last_x = tl.minimum(((2 * source + 2 * BLOCK_S + 1) * W) // (2 * have_x) + 2, W)
        for from_y in range(first_y, last_y):
            share_y = 1.0
            if DEPTH:
                distance_y = tl.abs(_position(from_y, have_y, PY) - y * 2 * PY).to(tl.float32) / (2 * PY)
                share_y = tl.maximum(1.0 - distance_y, 0.0)
            start = ((image * height + row) * PY + from_y) * W
            for from_x in range(first_x, last_x, BLOCK_X):
                x = from_x + tl.arange(0, BLOCK_X)
                distance = tl.abs(_position(x, have_x, W)[None, :] - s[:, None] * (2 * W)).to(tl.float32) / (2 * W)
                share = tl.where((x < W)[None, :], tl.maximum(1.0 - distance, 0.0) * share_y, 0.0)
                gradient = tl.load(upstream + (start + x)[:, None] * C + channel[None, :],
                                   mask=(x < W)[:, None] & (channel < C)[None, :], other=0.0)  # fmt: skip
                reduced = tl.dot(share.to(dtype), gradient, reduced)
        out = _entry(table, SMALL + WEIGHTS + index, like)
        at = image * _number(numbers, index, 4) + row * _number(numbers, index, 6) + y * _number(numbers, index, 7)
        at = at + s * _number(numbers, index, 8)
        of_channel = _number(numbers, index, 5)
        if weight_index >= 0:
            place = ((image * height + row) * have_y + y) * have_x + s
            tl.store(_entry(table, 2 * SMALL + WEIGHTS + weight_index, like) + place[:, None] * C + channel[None, :],
                     reduced.to(dtype), mask=(s < have_x)[:, None] & (channel < C)[None, :])  # fmt: skip
            weight = _entry(table, SMALL + weight_index, weight_like)
            for k in range(0, width, BLOCK_K):
                own = k + tl.arange(0, BLOCK_K)
                factors = tl.load(weight + channel[:, None] * width + own[None, :],
                                  mask=(own < width)[None, :] & (channel < C)[:, None], other=0.0)  # fmt: skip
                gradient = tl.dot(reduced.to(dtype), factors.to(dtype))
                tl.store(out + at[:, None] + own[None, :] * of_channel, gradient.to(dtype),
                         mask=(s < have_x)[:, None] & (own < width)[None, :])  # fmt: skip
        else:
            tl.store(out + at[:, None] + channel[None, :] * of_channel, reduced.to(dtype),
                     mask=(s < have_x)[:, None] & (channel < C)[None, :])  # fmt: skip


@triton.jit
def _weight_kernel(
    table, numbers, like, partial, BATCH, SMALL, TOTAL,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``table``: SMALL features, then the gradients of the projected ones. ``partial``, ``[GROUPS, TOTAL]``."""
    block = tl.program_id(0)
    index = 0
    down = tl.cdiv(C, BLOCK_C)
    blocks = tl.where(_number(numbers, 0, 9) >= 0, tl.cdiv(_number(numbers, 0, 3).to(tl.int32), BLOCK_K) * down, 0)
    while block >= blocks:
        block -= blocks
        index += 1
        width_blocks = tl.cdiv(_number(numbers, index, 3).to(tl.int32), BLOCK_K)
        blocks = tl.where(_number(numbers, index, 9) >= 0, width_blocks * down, 0)
    height = _number(numbers, index, 0).to(tl.int32)
    have_y = _number(numbers, index, 1).to(tl.int32)
    have_x = _number(numbers, index, 2).to(tl.int32)
    width = _number(numbers, index, 3).to(tl.int32)
    of_image = _number(numbers, index, 4)
    of_channel = _number(numbers, index, 5)
    of_row = _number(numbers, index, 6)
    of_y = _number(numbers, index, 7)
    of_x = _number(numbers, index, 8)
    feature = _entry(table, index, like)
    projected = _entry(table, SMALL + _number(numbers, index, 9), like)
    channel = block % down * BLOCK_C + tl.arange(0, BLOCK_C)
    own = block // down * BLOCK_K + tl.arange(0, BLOCK_K)
    pixels = BATCH * height * have_y * have_x
    share = tl.cdiv(tl.cdiv(pixels, tl.num_programs(1)), BLOCK_P) * BLOCK_P
    total = tl.zeros([BLOCK_C, BLOCK_K], tl.float32)
    first = tl.program_id(1) * share
    for start in range(first, tl.minimum(first + share, pixels), BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        x = pixel % have_x
        y = pixel // have_x % have_y
        row = pixel // (have_x * have_y) % height
        image = pixel // (have_x * have_y * height)
        at = image.to(tl.int64) * of_image + row * of_row + y * of_y + x * of_x
        value = tl.load(feature + at[:, None] + own[None, :] * of_channel,
                        mask=(pixel < pixels)[:, None] & (own < width)[None, :], other=0.0)  # fmt: skip
        gradient = tl.load(projected + pixel.to(tl.int64)[None, :] * C + channel[:, None],
                           mask=(pixel < pixels)[None, :] & (channel < C)[:, None], other=0.0)  # fmt: skip
        total = tl.dot(gradient, value, total)
    place = tl.program_id(1).to(tl.int64) * TOTAL + _number(numbers, index, 10)
    tl.store(partial + place + channel[:, None] * width + own[None, :], total,
             mask=(channel < C)[:, None] & (own < width)[None, :])  # fmt: skip


@lru_cache(maxsize=512)
def _numbers_of(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _numbers(features: Sequence[Tensor], weight_of: Sequence[int], channels: int) -> Tensor:
    rows, place = [], 0
    for feature, weight in zip(features, weight_of, strict=True):
        size, strides = list(feature.shape[2:]), list(feature.stride())
        if len(size) == 2:  # an image has slices of one line
            size.insert(1, 1)
            strides.insert(3, 0)
        rows.append((*size, feature.shape[1], *strides, weight, place))
        place += channels * feature.shape[1] if weight >= 0 else 0
    return _numbers_of(tuple(rows), features[0].device)


def _plane(size: Sequence[int]) -> tuple[int, int]:
    return (1, size[1]) if len(size) == 2 else (size[1], size[2])


def _block(channels: int, most: int) -> int:
    return min(max(triton.next_power_of_2(channels), 16), most)


def enlarge(
    features: Sequence[Tensor], weights: Sequence[Tensor], weight_of: Sequence[int], size: Sequence[int], channels: int
) -> list[Tensor]:
    """Project and enlarge entries along all axes but the first, each ``[B, C_k, *s_k]`` to ``[B, P, C]``.

    Args:
        features: Of one half-precision dtype, in any order in memory.
        weights: ``[C, C_k]``, contiguous, of one dtype.
        weight_of: For each feature the number of its weight, or -1.
        size: Of the output.
        channels: C.
    """
    batch, (plane_y, plane_x) = features[0].shape[0], _plane(size)
    lines = [feature.shape[2] * plane_y for feature in features]
    results = [feature.new_empty(batch, line * plane_x, channels) for feature, line in zip(features, lines, strict=True)]
    like = features[0]
    block, block_x = _block(channels, 64), _block(plane_x, 64)
    grid = (sum(lines), triton.cdiv(plane_x, block_x) * triton.cdiv(channels, block), batch)
    with torch.cuda.device_of(like):
        _enlarge_kernel[grid](
            _table([*features, *weights, *results]), _numbers(features, weight_of, channels), like,
            weights[0] if weights else like, plane_y, plane_x, len(features), len(weights),
            C=channels, BLOCK_C=block, BLOCK_X=block_x, BLOCK_S=16, BLOCK_K=32, DEPTH=len(size) == 3, num_warps=4,
        )  # fmt: skip
    return results


def reduce(
    gradients: Sequence[Tensor], features: Sequence[Tensor], weights: Sequence[Tensor], weight_of: Sequence[int],
    size: Sequence[int],
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """The gradients of ``features`` and, in float32, of ``weights`` from those of :func:`enlarge`'s results."""
    batch, channels, (plane_y, plane_x) = features[0].shape[0], gradients[0].shape[2], _plane(size)
    numbers = _numbers(features, weight_of, channels)
    of_features = [torch.empty_like(feature) for feature in features]
    # the kernel writes by the feature's strides
    of_features = [
        own if own.stride() == feature.stride() else torch.empty_strided(feature.shape, feature.stride(), dtype=own.dtype, device=own.device)
        for own, feature in zip(of_features, features, strict=True)
    ]  # fmt: skip
    projected_from = [feature for feature, weight in zip(features, weight_of, strict=True) if weight >= 0]
    projected = [feature.new_empty(batch, math.prod(feature.shape[2:]), channels) for feature in projected_from]
    like, block = features[0], _block(channels, 1 << 20)
    lines = sum(math.prod(feature.shape[2:-1]) for feature in features)
    with torch.cuda.device_of(like):
        table = _table([*gradients, *weights, *of_features, *projected])
        grid = (lines, max(triton.cdiv(feature.shape[-1], 16) for feature in features), batch)
        _reduce_kernel[grid](
            table, numbers, like, weights[0] if weights else like, plane_y, plane_x, len(features), len(weights),
            C=channels, BLOCK_C=block, BLOCK_X=32 if block <= 128 else 16, BLOCK_S=16, BLOCK_K=32 if block <= 128 else 16,
            DEPTH=len(size) == 3,
            num_warps=4 if block <= 128 else 8,
        )  # fmt: skip
        if not weights:
            return of_features, []
        lengths = [channels * feature.shape[1] for feature in projected_from]
        partial = torch.empty(GROUPS, sum(lengths), dtype=torch.float32, device=like.device)
        block_c = _block(channels, 64)
        blocks = sum(triton.cdiv(feature.shape[1], 64) for feature in projected_from) * triton.cdiv(channels, block_c)
        _weight_kernel[(blocks, GROUPS)](
            _table([*features, *projected]), numbers, like, partial, batch, len(features), sum(lengths),
            C=channels, BLOCK_C=block_c, BLOCK_K=64, BLOCK_P=32, num_warps=4,
        )  # fmt: skip
        of_weights = partial.sum(0).split(lengths)
    return of_features, [
        own.view(channels, feature.shape[1]) for own, feature in zip(of_weights, projected_from, strict=True)
    ]
