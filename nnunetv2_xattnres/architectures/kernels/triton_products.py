"""The products of a reader as Triton kernels: each works on all entries of a reader in one launch.

PyTorch starts one product after the other, and a reader of 13 entries has more than fifty short ones: the GPU would
wait for the host. Here a program finds the entry that it belongs to by counting tiles.

``rows`` is a table in device memory of whole numbers per entry, and ``table`` one of addresses. A matrix of an image
is ``[channels, pixels]``, in memory as it stands, or with the channels of a pixel side by side (``LAST``).
"""
# ruff: noqa: ANN001, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels.triton_launch import INTERPRETED, Tile, ceil_div, entry_at, launch

_INTERPRETED = tl.constexpr(INTERPRETED)
MAX_ELEMENTS = 2**31 - 1  # of an image of a feature: places within it are 32-bit numbers
SPLIT_PIXELS = 4096  # of a sum over pixels, for one program
MAX_SPLITS = 256


@triton.jit
def _dot(a, b, acc):
    """``acc + a b`` with sums in the dtype of ``acc``."""
    if _INTERPRETED:
        if a.dtype == tl.float64:  # not in every Triton
            return acc + tl.sum(a[:, :, None] * b[None, :, :], 1)
        # the interpreter would take the bits of bfloat16 for whole numbers
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _load_matrix(pointer, channel, pixel, channels, pixels, LAST: tl.constexpr):
    """A tile ``[channel, pixel]`` of an image."""
    offsets = pixel[None, :] * channels + channel[:, None] if LAST else channel[:, None] * pixels + pixel[None, :]
    return tl.load(pointer + offsets, mask=(channel < channels)[:, None] & (pixel < pixels)[None, :], other=0.0)


@triton.jit
def _project_tile(
    source, weight, target, image, tile, width, pixels, C, BACKWARD: tl.constexpr, LAST: tl.constexpr,
    OUT_LAST: tl.constexpr, EXACT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    if BACKWARD:
        inner, outer = C, width
    else:
        inner, outer = width, C
    across = tl.cdiv(pixels, BLOCK_P)
    row = tile // across * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel = tile % across * BLOCK_P + tl.arange(0, BLOCK_P)
    source += image * inner * pixels
    target += image * outer * pixels
    acc = tl.zeros([BLOCK_M, BLOCK_P], EXACT)
    for start in range(0, inner, BLOCK_K):
        channel = start + tl.arange(0, BLOCK_K)
        places = channel[None, :] * width + row[:, None] if BACKWARD else row[:, None] * width + channel[None, :]
        matrix = tl.load(weight + places, mask=(row < outer)[:, None] & (channel < inner)[None, :], other=0.0)
        values = _load_matrix(source, channel, pixel, inner, pixels, LAST)
        acc = _dot(matrix.to(values.dtype), values, acc)
    offsets = pixel[None, :] * outer + row[:, None] if OUT_LAST else row[:, None] * pixels + pixel[None, :]
    mask = (row < outer)[:, None] & (pixel < pixels)[None, :]
    tl.store(target + offsets, acc.to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["first", "C"])
def _project_kernel(
    table, rows, first, like, weight_like, C, BACKWARD: tl.constexpr, LAST: tl.constexpr, OUT_LAST: tl.constexpr,
    EXACT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Multiply features by their projections, ``[C, width]``; or, ``BACKWARD``, gradients by the transposes.

    A row holds width, pixels, and the places in ``table`` of what is read, of the projection, and of what is written.
    """
    rows += first
    tile = tl.program_id(0)
    width, pixels = tl.load(rows), tl.load(rows + 1)
    tiles = tl.cdiv(width if BACKWARD else C, BLOCK_M) * tl.cdiv(pixels, BLOCK_P)
    while tile >= tiles:
        tile -= tiles
        rows += 5
        width, pixels = tl.load(rows), tl.load(rows + 1)
        tiles = tl.cdiv(width if BACKWARD else C, BLOCK_M) * tl.cdiv(pixels, BLOCK_P)
    source = entry_at(table, tl.load(rows + 2), like)
    weight = entry_at(table, tl.load(rows + 3), weight_like)
    target = entry_at(table, tl.load(rows + 4), like)
    image = tl.program_id(1).to(tl.int64)
    if (width % 8 == 0) & (pixels % 8 == 0) & (C % 8 == 0):  # the compiler sees the factor: loads are 16 bytes wide
        _project_tile(
            source, weight, target, image, tile, width // 8 * 8, pixels // 8 * 8, C // 8 * 8, BACKWARD, LAST, OUT_LAST,
            EXACT, BLOCK_M, BLOCK_P, BLOCK_K,
        )  # fmt: skip
    else:
        _project_tile(
            source, weight, target, image, tile, width, pixels, C, BACKWARD, LAST, OUT_LAST, EXACT, BLOCK_M, BLOCK_P,
            BLOCK_K,
        )  # fmt: skip


@triton.jit
def _weight_tile(
    gradient, source, target, tile, splits, images, width, pixels, C, LAST: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    split = tile % splits
    across = tl.cdiv(width, BLOCK_K)
    row = tile // splits // across * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = tile // splits % across * BLOCK_K + tl.arange(0, BLOCK_K)
    blocks = tl.cdiv(pixels, BLOCK_P)
    share = tl.cdiv(images * blocks, splits)
    acc = tl.zeros([BLOCK_C, BLOCK_K], EXACT)
    for block in range(split * share, tl.minimum((split + 1) * share, images * blocks)):
        image = (block // blocks).to(tl.int64)
        pixel = block % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
        grad = _load_matrix(gradient + image * C * pixels, row, pixel, C, pixels, LAST)
        values = _load_matrix(source + image * width * pixels, channel, pixel, width, pixels, LAST)
        acc = _dot(grad, tl.trans(values), acc)
    places = row[:, None] * width + channel[None, :]
    tl.store(target + split * C * width + places, acc, mask=(row < C)[:, None] & (channel < width)[None, :])


@triton.jit(do_not_specialize=["first", "images", "C"])
def _weight_kernel(
    table, rows, first, images, like, partial, C, LAST: tl.constexpr, EXACT: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Write parts of the gradients of projections to ``partial``: each sums over a part of all images' pixels.

    A row holds width, pixels, the places in ``table`` of the gradient and of the feature, the number of parts, and the
    place in ``partial`` of the first one, in parts of 16 numbers.
    """
    rows += first
    tile = tl.program_id(0)
    width, splits = tl.load(rows), tl.load(rows + 4)
    tiles = tl.cdiv(C, BLOCK_C) * tl.cdiv(width, BLOCK_K) * splits
    while tile >= tiles:
        tile -= tiles
        rows += 6
        width, splits = tl.load(rows), tl.load(rows + 4)
        tiles = tl.cdiv(C, BLOCK_C) * tl.cdiv(width, BLOCK_K) * splits
    pixels = tl.load(rows + 1)
    gradient, source = entry_at(table, tl.load(rows + 2), like), entry_at(table, tl.load(rows + 3), like)
    target = partial + tl.load(rows + 5).to(tl.int64) * 16
    if (width % 8 == 0) & (pixels % 8 == 0) & (C % 8 == 0):
        _weight_tile(
            gradient, source, target, tile, splits, images, width // 8 * 8, pixels // 8 * 8, C // 8 * 8, LAST, EXACT,
            BLOCK_C, BLOCK_K, BLOCK_P,
        )  # fmt: skip
    else:
        _weight_tile(
            gradient, source, target, tile, splits, images, width, pixels, C, LAST, EXACT, BLOCK_C, BLOCK_K, BLOCK_P
        )


@triton.jit(do_not_specialize=["first", "parts", "stride", "C"])
def _sum_kernel(table, rows, first, parts, stride, partial, like, C, BLOCK: tl.constexpr, SPLITS: tl.constexpr):
    """Sum up what :func:`_weight_kernel` wrote, ``parts`` times, ``stride`` numbers apart.

    A row holds width, the place in ``table`` of the gradient of the projection, the number of parts, and the place in
    ``partial`` of the first one, in parts of 16 numbers.
    """
    rows += first
    tile = tl.program_id(0)
    width = tl.load(rows)
    while tile >= tl.cdiv(C * width, BLOCK):
        tile -= tl.cdiv(C * width, BLOCK)
        rows += 4
        width = tl.load(rows)
    target, splits = tl.load(table + tl.load(rows + 1)).to(like.dtype), tl.load(rows + 2)
    source = partial + tl.load(rows + 3).to(tl.int64) * 16
    number = tile * BLOCK + tl.arange(0, BLOCK)
    inside = number < C * width
    total = tl.zeros([BLOCK], partial.dtype.element_ty)
    for _ in range(parts):
        for start in range(0, splits, SPLITS):
            split = start + tl.arange(0, SPLITS)
            places = split[:, None] * (C * width) + number[None, :]
            total += tl.sum(tl.load(source + places, mask=(split < splits)[:, None] & inside[None, :], other=0.0), 0)
        source += stride
    tl.store(target + number, total.to(like.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first"])
def _shorten_kernel(
    table, rows, first, like, W, C: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Bring the gradients of smaller entries down to their own lines: the gradient of interpolation along lines.

    A line of ``W`` numbers is multiplied by the matrix of interpolation, of which a tile's band is read alone. A row
    holds the number of lines in an image, that of an entry's pixels of a line, and the places in ``table`` of what is
    read and written. Where the channels of a pixel lie side by side, a line has ``C`` of them, and counts C times.
    """
    rows += first
    tile = tl.program_id(0)
    lines, width = tl.load(rows), tl.load(rows + 1)
    tiles = tl.cdiv(lines, BLOCK_N) * tl.cdiv(width, BLOCK_S)
    while tile >= tiles:
        tile -= tiles
        rows += 4
        lines, width = tl.load(rows), tl.load(rows + 1)
        tiles = tl.cdiv(lines, BLOCK_N) * tl.cdiv(width, BLOCK_S)
    source, target = entry_at(table, tl.load(rows + 2), like), entry_at(table, tl.load(rows + 3), like)
    lines = lines // C * C  # the compiler sees the factor
    image = tl.program_id(1).to(tl.int64)
    source += image * lines * W
    target += image * lines * width
    begin = tile % tl.cdiv(width, BLOCK_S) * BLOCK_S
    pixel = begin + tl.arange(0, BLOCK_S)
    line = tile // tl.cdiv(width, BLOCK_S) * BLOCK_N + tl.arange(0, BLOCK_N)
    first_read = tl.maximum(((2 * begin - 1) * W) // (2 * width) - 1, 0) // BLOCK_W * BLOCK_W
    last_read = tl.minimum(((2 * (begin + BLOCK_S) + 1) * W) // (2 * width) + 2, W)
    acc = tl.zeros([BLOCK_S, BLOCK_N], EXACT)
    for start in range(first_read, last_read, BLOCK_W):
        column = start + tl.arange(0, BLOCK_W)
        position = tl.minimum(tl.maximum((2 * column + 1) * width - W, 0), (width - 1) * 2 * W)
        ahead = (position[None, :] - pixel[:, None] * (2 * W)).to(EXACT) / (2 * W)
        share = tl.maximum(1.0 - tl.abs(ahead), 0.0)
        inside = (column < W)[:, None] & (line < lines)[None, :]
        if LAST:
            places = (line // C * W)[None, :] * C + column[:, None] * C + (line % C)[None, :]
        else:
            places = line[None, :] * W + column[:, None]
        values = tl.load(source + places, mask=inside, other=0.0)
        acc = _dot(share.to(values.dtype), values, acc)
    inside = (pixel < width)[:, None] & (line < lines)[None, :]
    if LAST:
        places = (line // C * width)[None, :] * C + pixel[:, None] * C + (line % C)[None, :]
    else:
        places = line[None, :] * width + pixel[:, None]
    tl.store(target + places, acc.to(like.dtype.element_ty), mask=inside)


class Group(NamedTuple):
    """Entries that one launch works on."""

    rows: tuple[tuple[int, ...], ...]
    first: int = 0  # place of the first number among those in device memory


# None of the tiles spills on sm_80, sm_89 and sm_90: tests/architectures/kernels/test_kernel_report.py


@lru_cache(maxsize=256)
def project_tiles(C: int, half: bool, backward: bool) -> tuple[Tile, ...]:
    """Tiles of :func:`project`."""
    channels = 32 if not half or (C <= 32 and not backward) else 64
    if not half:
        return (Tile(4, BLOCK_M=channels, BLOCK_P=64, BLOCK_K=32),)
    return (
        Tile(8, BLOCK_M=channels, BLOCK_P=128, BLOCK_K=32),
        Tile(4, BLOCK_M=channels, BLOCK_P=128 if channels == 32 else 64, BLOCK_K=32),
    )


@lru_cache(maxsize=256)
def weight_tiles(C: int, half: bool) -> tuple[Tile, ...]:
    """Tiles of :func:`differentiate_weights`."""
    if not half:
        return (Tile(4, BLOCK_C=32, BLOCK_K=32, BLOCK_P=32),)
    channels = 32 if C <= 32 else 64
    return (
        Tile(8, BLOCK_C=channels, BLOCK_K=64, BLOCK_P=64),
        Tile(4, BLOCK_C=32, BLOCK_K=64, BLOCK_P=64) if C <= 32 else Tile(8, BLOCK_C=64, BLOCK_K=64, BLOCK_P=128),
    )


@lru_cache(maxsize=256)
def shorten_tiles(half: bool) -> tuple[Tile, ...]:
    """Tiles of :func:`shorten`."""
    return (Tile(4, BLOCK_S=16, BLOCK_N=64, BLOCK_W=64 if half else 32),)


SUM_TILES = (Tile(4, BLOCK=128, SPLITS=16),)


def project(
    table: Tensor, rows: Tensor, group: Group, C: int, like: Tensor, weight: Tensor, images: int, *, backward: bool,
    last: bool, out_last: bool,
) -> None:  # fmt: skip
    """Write the projections of a group's features, or the gradients of the features.

    Args:
        table: Addresses.
        rows: The numbers of all groups, int32.
        group: ``(width, pixels, place of what is read, of the weight, of what is written)`` per entry.
        C: Channels of the projections.
        like: A tensor of the features' dtype.
        weight: A tensor of the weights' dtype.
        images: Of each feature.
        backward: Multiply by the transposes.
        last: Whether the channels of a pixel that is read lie side by side.
        out_last: Whether those that are written do.
    """

    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return sum(
            ceil_div(width if backward else C, tile["BLOCK_M"]) * ceil_div(pixels, tile["BLOCK_P"])
            for width, pixels, *_ in group.rows
        ), images

    constants = {"BACKWARD": backward, "LAST": last, "OUT_LAST": out_last, "EXACT": exact(like.dtype)}
    tiles = project_tiles(C, like.dtype.itemsize == 2, backward)
    launch(_project_kernel, tiles, grid, (table, rows, group.first, like, weight, C), constants, like, {"C": C})


def differentiate_weights(
    table: Tensor, rows: Tensor, group: Group, C: int, like: Tensor, partial: Tensor, images: int, *, last: bool
) -> None:
    """Write parts of the gradients of the weights to ``partial``.

    The arguments are those of :func:`project`, but ``group`` has ``(width, pixels, place of the gradient, of the
    feature, parts, place in partial)``, the last one in parts of 16 numbers.
    """

    def grid(tile: dict[str, int]) -> tuple[int]:
        across = ceil_div(C, tile["BLOCK_C"])
        return (sum(across * ceil_div(row[0], tile["BLOCK_K"]) * row[4] for row in group.rows),)

    constants = {"LAST": last, "EXACT": exact(like.dtype)}
    tiles = weight_tiles(C, like.dtype.itemsize == 2)
    launch(_weight_kernel, tiles, grid, (table, rows, group.first, images, like, partial, C), constants, like, {"C": C})


def sum_weights(
    table: Tensor, rows: Tensor, group: Group, C: int, weight: Tensor, partial: Tensor, parts: int, stride: int
) -> None:
    """Write the gradients of the weights: sums of what :func:`differentiate_weights` wrote ``parts`` times.

    Args:
        table: Addresses.
        rows: The numbers of all groups, int32.
        group: ``(width, place of the weight's gradient, parts, place in partial)`` per weight.
        C: Channels of the projections.
        weight: A tensor of the weights' dtype.
        partial: What was written.
        parts: How often.
        stride: Numbers from one time to the next.
    """

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (sum(ceil_div(C * row[0], tile["BLOCK"]) for row in group.rows),)

    arguments = (table, rows, group.first, parts, stride, partial, weight, C)
    launch(_sum_kernel, SUM_TILES, grid, arguments, {}, weight)


def shorten(
    table: Tensor, rows: Tensor, group: Group, W: int, C: int, like: Tensor, images: int, *, last: bool
) -> None:
    """Write the gradients of smaller entries, from lines of ``W`` pixels to their own ones.

    ``group`` has ``(lines of an image times channels, pixels of a line, place of what is read, of what is written)``.
    """

    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return sum(ceil_div(row[0], tile["BLOCK_N"]) * ceil_div(row[1], tile["BLOCK_S"]) for row in group.rows), images

    constants = {"C": C if last else 1, "LAST": last, "EXACT": exact(like.dtype)}
    arguments = (table, rows, group.first, like, W)
    launch(_shorten_kernel, shorten_tiles(like.dtype.itemsize == 2), grid, arguments, constants, like)


def exact(dtype: torch.dtype) -> tl.dtype:
    """The dtype of sums."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def splits_of(pixels: int) -> int:
    """Parts of a sum over so many pixels."""
    return min(ceil_div(pixels, SPLIT_PIXELS), MAX_SPLITS)
