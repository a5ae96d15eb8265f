"""The mixture of XAttnRes (eq. 5 to 8) and its gradients as three Triton kernels for an NVIDIA GPU.

``triton_pixels.py`` says how entries lie in memory, and what H, MIDDLE, W and R are.

Arithmetic is what limits them, not memory: each value of the output needs four of every smaller entry. So:

* A program works on two rows of the output, which lie between the same two rows of an entry wherever the ratio of
  sizes is even: these are loaded, and interpolated along lines, once.
* No divisions of whole numbers, no masks where all that is read exists, and places of 32 bits within an image.
* The entries are a loop, not an unrolled sequence, so that no entry is loaded ahead and nothing spills. Therefore the
  addresses of the entries come from a table in device memory.
* A program holds all channels of a few pixels. So sums over channels stay within a few threads.
* The gradient of a smaller entry is never written at full size. It is ``a G + b q + c V`` per pixel, with three
  numbers per pixel and entry. :func:`_gradient_kernel` writes what these follow from, and :func:`_narrow_kernel` sums
  over the output rows that read a row of the entry. No atomics: the same sums in every run.
"""
# ruff: noqa: ANN001, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels.triton_launch import ALIGNMENT, Tile, ceil_div, entry_at, launch
from nnunetv2_xattnres.architectures.kernels.triton_pixels import (
    columns_of,
    image_of,
    load_across,
    load_pixels,
    load_rows,
    near_in_line,
    store_pixels,
)


@triton.jit
def _attend(value, query, eps, C: tl.constexpr):
    """Logit and 1/rms per pixel (eq. 6)."""
    rstd = tl.rsqrt(tl.sum(value * value, 1) * (1.0 / C) + eps)
    return tl.sum(value * query, 1) * rstd, rstd


@triton.jit
def _weigh(logit, largest, total):
    """The softmax so far (eq. 7): largest logit, sum, the factor of what was summed before, and the new weight."""
    ahead = logit - largest
    small = tl.exp(-tl.abs(ahead))
    decay = tl.where(ahead > 0, small, 1.0)
    weight = tl.where(ahead > 0, 1.0, small)
    return tl.maximum(largest, logit), total * decay + weight, decay, weight


@triton.jit(do_not_specialize=["H", "FULL", "SMALL"])
def _mix_kernel(
    table, sizes, query_ptr, out_ptr, eps, H, MIDDLE, W, FULL, SMALL,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the mixture. ``table``: FULL entries of full size, then SMALL smaller ones of these ``sizes``."""
    R = MIDDLE * W
    pair = tl.program_id(0) // tl.cdiv(R, COLUMNS)
    first, second = tl.maximum(2 * pair - 1, 0), tl.minimum(2 * pair, H - 1)
    column, inside, line, across = columns_of(R, W, COLUMNS, CHANNELS_LAST)
    channel = tl.arange(0, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=channel < C, other=0.0)[None, :]
    dtype: tl.constexpr = query.dtype
    mixed = tl.zeros([COLUMNS, BLOCK_C], dtype)
    largest = tl.full([COLUMNS], -float("inf"), dtype)
    total = tl.zeros([COLUMNS], dtype)
    other_mixed, other_largest, other_total = mixed, largest, total
    for index in range(FULL + SMALL):
        value, other = load_rows(
            table, sizes, index, out_ptr, first, second, column, inside, line, across, H, MIDDLE, W, FULL, C, BLOCK_C,
            CHANNELS_LAST, dtype,
        )  # fmt: skip
        logit, _rstd = _attend(value, query, eps, C)
        largest, total, decay, weight = _weigh(logit, largest, total)
        mixed = mixed * decay[:, None] + value * weight[:, None]
        logit, _rstd = _attend(other, query, eps, C)
        other_largest, other_total, decay, weight = _weigh(logit, other_largest, other_total)
        other_mixed = other_mixed * decay[:, None] + other * weight[:, None]
    image = image_of(out_ptr, H * R * C)
    mixed, other_mixed = mixed / total[:, None], other_mixed / other_total[:, None]
    store_pixels(image, mixed, first, column, inside & (pair > 0), H, R, C, BLOCK_C, CHANNELS_LAST)
    store_pixels(image, other_mixed, second, column, inside & (2 * pair < H), H, R, C, BLOCK_C, CHANNELS_LAST)


@triton.jit
def _observe(value, grad, query, eps, largest, total, mean, target, pixels, inside, C: tl.constexpr):
    """The softmax and the mean of <G, V> with one entry more; its logit, 1/rms and <G, V> are written."""
    logit, rstd = _attend(value, query, eps, C)
    agreement = tl.sum(grad * value, 1)
    tl.store(target, logit, mask=inside)
    tl.store(target + pixels, rstd, mask=inside)
    tl.store(target + 2 * pixels, agreement, mask=inside)
    largest, total, decay, weight = _weigh(logit, largest, total)
    return largest, total, mean * decay + agreement * weight


@triton.jit
def _shares(statistics, softmax, at, pixels, inside, C: tl.constexpr):
    """What the gradient of an entry is per pixel: the factors of G, of q and of V."""
    logit = tl.load(statistics + at, mask=inside, other=0.0)
    rstd = tl.load(statistics + pixels + at, mask=inside, other=0.0)
    agreement = tl.load(statistics + 2 * pixels + at, mask=inside, other=0.0)
    weight = tl.exp(logit - tl.load(softmax + at, mask=inside, other=0.0))
    along_query = weight * (agreement - tl.load(softmax + pixels + at, mask=inside, other=0.0)) * rstd
    return weight, along_query, -along_query * logit * rstd * (1.0 / C)


@triton.jit
def _write_full(
    entry, target, statistics, softmax, at, pixels, written, grad, query, row, column, inside, H, R, C: tl.constexpr,
    BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a row of an entry of full size; returns its part of the query's gradient, per pixel."""
    value = load_pixels(entry, row, column, inside, H, R, C, BLOCK_C, CHANNELS_LAST, dtype)
    weight, along_query, along_value = _shares(statistics, softmax, at, pixels, written, C)
    along_query = tl.where(written, along_query, 0.0)
    gradient = grad * weight[:, None] + query * along_query[:, None] + value * along_value[:, None]
    store_pixels(target, gradient, row, column, written, H, R, C, BLOCK_C, CHANNELS_LAST)
    return value * along_query[:, None]


@triton.jit(do_not_specialize=["H", "FULL", "SMALL", "GRADIENTS"])
def _gradient_kernel(
    table, sizes, query_ptr, grad_ptr, softmax_ptr, statistics_ptr, partial_ptr, eps, H, MIDDLE, W, FULL, SMALL,
    GRADIENTS, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the FULL entries of full size, and what those of the smaller ones follow from.

    ``table`` holds the entries as in :func:`_mix_kernel`, and from GRADIENTS on their gradients in the same order.
    R is the pixels of a row. ``softmax_ptr``, ``[2, B, H R]``: the logarithm of the softmax's sum, and the mean of
    <G, V> under its weights. ``statistics_ptr``, ``[FULL + SMALL, 3, B, H R]``: logit, 1/rms and <G, V>.
    ``partial_ptr``, ``[programs, C]``: the FULL entries' part of the query's gradient.
    """
    R = MIDDLE * W
    pair = tl.program_id(0) // tl.cdiv(R, COLUMNS)
    first, second = tl.maximum(2 * pair - 1, 0), tl.minimum(2 * pair, H - 1)
    column, inside, line, across = columns_of(R, W, COLUMNS, CHANNELS_LAST)
    in_first, in_second = inside & (pair > 0), inside & (2 * pair < H)
    channel = tl.arange(0, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=channel < C, other=0.0)[None, :]
    dtype: tl.constexpr = query.dtype
    elements = H * R * C
    image = image_of(grad_ptr, elements)
    grad = load_pixels(image, first, column, inside, H, R, C, BLOCK_C, CHANNELS_LAST, dtype)
    other_grad = load_pixels(image, second, column, inside, H, R, C, BLOCK_C, CHANNELS_LAST, dtype)
    pixels = tl.num_programs(1).to(tl.int64) * H * R
    softmax = image_of(softmax_ptr, H * R)
    at, other_at = first * R + column, second * R + column

    largest = tl.full([COLUMNS], -float("inf"), dtype)
    total = tl.zeros([COLUMNS], dtype)
    mean = tl.zeros([COLUMNS], dtype)
    other_largest, other_total, other_mean = largest, total, mean
    for index in range(FULL + SMALL):
        value, other = load_rows(
            table, sizes, index, grad_ptr, first, second, column, inside, line, across, H, MIDDLE, W, FULL, C, BLOCK_C,
            CHANNELS_LAST, dtype,
        )  # fmt: skip
        target = image_of(statistics_ptr, H * R) + index * 3 * pixels
        largest, total, mean = _observe(value, grad, query, eps, largest, total, mean, target + at, pixels, in_first, C)
        other_largest, other_total, other_mean = _observe(
            other, other_grad, query, eps, other_largest, other_total, other_mean, target + other_at, pixels,
            in_second, C,
        )  # fmt: skip
    tl.store(softmax + at, largest + tl.log(total), mask=in_first)
    tl.store(softmax + pixels + at, mean / total, mask=in_first)
    tl.store(softmax + other_at, other_largest + tl.log(other_total), mask=in_second)
    tl.store(softmax + pixels + other_at, other_mean / other_total, mask=in_second)
    tl.debug_barrier()  # other threads of the program read what these wrote

    query_gradient = tl.zeros([COLUMNS, BLOCK_C], dtype)
    for index in range(FULL):  # once more, mostly from the cache
        entry = image_of(entry_at(table, index, grad_ptr), elements)
        target = image_of(entry_at(table, GRADIENTS + index, grad_ptr), elements)
        statistics = image_of(statistics_ptr, H * R) + index * 3 * pixels
        query_gradient += _write_full(
            entry, target, statistics, softmax, at, pixels, in_first, grad, query, first, column, inside, H, R, C,
            BLOCK_C, CHANNELS_LAST, dtype,
        )  # fmt: skip
        query_gradient += _write_full(
            entry, target, statistics, softmax, other_at, pixels, in_second, other_grad, query, second, column, inside,
            H, R, C, BLOCK_C, CHANNELS_LAST, dtype,
        )  # fmt: skip
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial_ptr + program * C + channel, tl.sum(query_gradient, 0), mask=channel < C)


@triton.jit(do_not_specialize=["H", "FULL", "SMALL", "GRADIENTS"])
def _narrow_kernel(
    table, sizes, query_ptr, grad_ptr, softmax_ptr, statistics_ptr, partial_ptr, H, MIDDLE, W, FULL, GRADIENTS,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the smaller entries: a program sums over the output rows that read a row of an entry.

    ``table`` holds FULL entries and the smaller ones, and from GRADIENTS on their gradients in the same order.
    ``sizes``: rows and pixels of a line of each smaller entry. The gradients have the output's lines.
    With w the interpolation weight of an output row, and V its value, itself a blend of three rows of the entry, the
    sum of w (a G + b q + c V) needs one product per element, w a G. The rest is done once, after the loop.
    """
    R = MIDDLE * W
    column, inside, line, across = columns_of(R, W, COLUMNS, CHANNELS_LAST)
    row = tl.program_id(0) // tl.cdiv(R, COLUMNS)  # among those of all smaller entries; most work comes first
    index = FULL
    height = tl.load(sizes)
    while row >= height:
        row -= height
        index += 1
        sizes += 2
        height = tl.load(sizes)
    width = tl.load(sizes + 1)
    channel = tl.arange(0, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=channel < C, other=0.0)[None, :]
    dtype: tl.constexpr = query.dtype
    pixels = tl.num_programs(1).to(tl.int64) * H * R
    softmax = image_of(softmax_ptr, H * R)
    statistics = image_of(statistics_ptr, H * R) + index * 3 * pixels
    image = image_of(grad_ptr, H * R * C)

    first = tl.maximum(((2 * row - 1) * H) // (2 * height) - 1, 0)
    last = tl.minimum(((2 * row + 3) * H) // (2 * height) + 2, H)
    gradient = tl.zeros([COLUMNS, BLOCK_C], dtype)
    above_q = tl.zeros([COLUMNS], dtype)
    same_q, below_q = above_q, above_q
    above_v, same_v, below_v = above_q, above_q, above_q
    for output_row in range(first, last):
        position = tl.minimum(tl.maximum((2 * output_row + 1) * height - H, 0), (height - 1) * 2 * H)
        ahead = (position - row * 2 * H).to(dtype) / (2 * H)  # in rows of the entry
        share = tl.maximum(1.0 - tl.abs(ahead), 0.0)
        above, below = tl.maximum(-ahead, 0.0), tl.maximum(ahead, 0.0)
        weight, along_query, along_value = _shares(statistics, softmax, output_row * R + column, pixels, inside, C)
        grad = load_pixels(image, output_row, column, inside, H, R, C, BLOCK_C, CHANNELS_LAST, dtype)
        gradient += grad * (weight * share)[:, None]
        along_query *= share
        along_value *= share
        above_q += along_query * above
        same_q += along_query * share
        below_q += along_query * below
        above_v += along_value * above
        same_v += along_value * share
        below_v += along_value * below

    gradient += query * (above_q + same_q + below_q)[:, None]
    query_gradient = tl.zeros([BLOCK_C], dtype)
    entry = image_of(entry_at(table, index, grad_ptr), height * (MIDDLE * width * C))
    before, after, far = near_in_line(line, across, width, W, dtype)
    for step in range(-1, 2):
        neighbour = tl.minimum(tl.maximum(row + step, 0), height - 1)  # beyond the ends the weights are zero
        value = load_across(entry + neighbour * (MIDDLE * width * C), before, after, far, C, BLOCK_C, dtype)
        along_query = tl.where(step < 0, above_q, tl.where(step == 0, same_q, below_q))
        along_query = tl.where(inside, along_query, 0.0)
        along_value = tl.where(step < 0, above_v, tl.where(step == 0, same_v, below_v))
        query_gradient += tl.sum(value * along_query[:, None], 0)
        gradient += value * along_value[:, None]
    target = image_of(entry_at(table, GRADIENTS + index, grad_ptr), height * R * C)
    store_pixels(target, gradient, row, column, inside, height, R, C, BLOCK_C, CHANNELS_LAST)
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial_ptr + program * C + channel, query_gradient, mask=channel < C)


# Tiles to choose from on the user's card: bytes of a row of an entry per program, warps. The first one is the default.
# None of them spills on sm_80, sm_89 and sm_90: tests/architectures/kernels/test_kernel_report.py
TILES = ((4096, 4), (8192, 8))
NARROW_TILES = ((4096, 2), (8192, 4))
# Of a thread at most. Without a limit, ptxas aims at 168 registers or fewer in four warps, and spills a few bytes.
GRADIENT_REGISTERS = {"channels_last": 168, "contiguous": 255}


@lru_cache(maxsize=256)
def tiles_for(kernel: Any, block: int, channels_last: bool, itemsize: int) -> tuple[Tile, ...]:
    """The tiles to choose from, for so many channels of so many bytes."""
    bytes_warps: Sequence[tuple[int, int]] = NARROW_TILES if kernel is _narrow_kernel else TILES
    if itemsize > 2:
        bytes_warps = bytes_warps[:1]  # with the second one, some widths of float32 spill
    pixels = 1 if channels_last else ALIGNMENT // itemsize  # where pixels lie side by side, so many are loaded at once
    registers = None
    if kernel is _gradient_kernel:
        registers = GRADIENT_REGISTERS["channels_last" if channels_last else "contiguous"]
    tiles = (_tile_of(block, pixels, size // itemsize, warps, registers) for size, warps in bytes_warps)
    return tuple(dict.fromkeys(tiles))


def _tile_of(block: int, fewest: int, values: int, warps: int, registers: int | None) -> Tile:
    """A tile of about so many values, and of at least ``fewest`` pixels."""
    pixels = max(values // block, fewest)
    if values // block <= fewest > 1:  # as many more warps, or values spill
        warps = min(8, warps * pixels * block // values)
    return Tile(warps, registers if warps <= 4 else None, COLUMNS=pixels)


def block_of(channels: int) -> int:
    """Channels of a tile: the next power of two."""
    return triton.next_power_of_2(channels)


def _programs(rows: int, columns: int, tile: dict[str, int]) -> int:
    return rows * ceil_div(columns, tile["COLUMNS"])


def _pairs(rows: int) -> int:
    """Programs for the rows of the output: two each, the first one and the last one alone where they must be.

    The rows 2 k - 1 and 2 k lie between the same two rows of an entry wherever the ratio of sizes is even.
    """
    return rows // 2 + 1


def _launch(
    kernel: Any, arguments: Sequence[Any], batch: int, rows: int, columns: int, like: Tensor, last: bool
) -> int:
    """Run a kernel on so many rows of pixels; returns the number of programs."""
    channels = like.shape[1]
    block = block_of(channels)
    constants = {"C": channels, "CHANNELS_LAST": last, "BLOCK_C": block}
    tile = launch(
        kernel,
        tiles_for(kernel, block, last, like.itemsize),
        lambda tile: (_programs(rows, columns, tile), batch),
        arguments,
        constants,
        like,
    )
    return _programs(rows, columns, tile.constants) * batch


def mix(
    table: Tensor, sizes: Tensor, query: Tensor, eps: float, out: Tensor, full: int, small: int, channels_last: bool
) -> None:
    """Write the mixture (eq. 8) to ``out``.

    Args:
        table: Addresses of ``full`` entries like ``out``, and of ``small`` smaller ones, ``[B, h, (MIDDLE,) w, C]``.
        sizes: h and w of each of the smaller ones, int32.
        query: ``[C]``, the pseudo-query times the RMSNorm scale; its dtype is computed in.
        eps: Added to the mean square.
        out: ``[B, C, H, (MIDDLE,) W]``, of the entries' dtype.
        full: Entries of full size.
        small: Smaller entries.
        channels_last: The order in memory of ``out`` and of the entries of full size; contiguous otherwise.
    """
    batch, _, rows, *_ = out.shape
    middle, width = lines_of(out.shape[2:])
    arguments = (table, sizes, query, out, eps, rows, middle, width, full, small)
    _launch(_mix_kernel, arguments, batch, _pairs(rows), middle * width, out, channels_last)


def differentiate(
    table: Tensor, sizes: Tensor, heights: int, query: Tensor, eps: float, grad: Tensor, full: int, small: int,
    gradients: int, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Write the gradients of the entries; return that of ``query``.

    The arguments are those of :func:`mix`, with ``grad`` in the place of ``out``, and:

    Args:
        heights: The sum of all h.
        gradients: The place in ``table`` of the first gradient. They are in the order in memory of ``grad``; those of
            the smaller entries have h rows and the output's lines.
    """
    batch, channels, rows, *_ = grad.shape
    middle, width = lines_of(grad.shape[2:])
    columns = middle * width
    block = block_of(channels)
    pixels = batch * rows * columns
    # The number of programs, each of which writes one part of the query's gradient, depends on the tile.
    programs = max(
        _programs(_pairs(rows), columns, t.constants)
        for t in tiles_for(_gradient_kernel, block, channels_last, grad.itemsize)
    )
    if small:
        tiles = tiles_for(_narrow_kernel, block, channels_last, grad.itemsize)
        programs += max(_programs(heights, columns, tile.constants) for tile in tiles)
    parts = (2 * pixels, 3 * (full + small) * pixels, programs * batch * channels)
    softmax, statistics, partial = query.new_empty(sum(parts)).split(parts)
    size = (rows, middle, width)
    common = (table, sizes, query, grad, softmax, statistics)
    done = _launch(
        _gradient_kernel, (*common, partial, eps, *size, full, small, gradients), batch, _pairs(rows),
        columns, grad, channels_last,
    )  # fmt: skip
    if small:
        rest = partial[done * channels :]
        done += _launch(
            _narrow_kernel, (*common, rest, *size, full, gradients), batch, heights, columns, grad, channels_last
        )
    return partial[: done * channels].view(done, channels).sum(0)


def lines_of(size: Sequence[int]) -> tuple[int, int]:
    """Lines of a row, and pixels of a line: of an image, a row is one line."""
    return (size[1] if len(size) == 3 else 1), size[-1]
