"""The mixture of XAttnRes (eq. 5 to 8) and its gradients as three Triton kernels for an NVIDIA GPU.

The output has ``H`` rows (the first spatial axis) of ``MIDDLE`` lines (the second of three axes; one in 2D) of ``W``
pixels. An entry may have fewer rows and shorter lines: it is interpolated along both inside the kernels, from the four
pixels next to each output pixel. Such entries lie in memory with the channels of a pixel side by side,
``[B, h, MIDDLE, w, C]``. Entries of full size, the output, and all gradients may also be contiguous, with the channels
outside.

Three rules keep the kernels fast:

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
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels.triton_launch import Tile, _entry, launch


@triton.jit
def _channels(C: tl.constexpr, BLOCK_C: tl.constexpr):
    channel = tl.arange(0, BLOCK_C)
    return channel[None, :], (channel < C)[None, :]


@triton.jit
def _tile(H, R, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of a program's pixels, and which of them exist."""
    pixel = tl.arange(0, ROWS * COLUMNS)
    across = tl.cdiv(R, COLUMNS)
    row = tl.program_id(0) // across * ROWS + pixel // COLUMNS
    column = tl.program_id(0) % across * COLUMNS + pixel % COLUMNS
    return row, column, (row < H) & (column < R)


@triton.jit
def _offsets(row, column, channel, height, R, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where pixels of the program's image lie, ``[pixels, BLOCK_C]``, in 64 bits, which large volumes need."""
    image = tl.program_id(1).to(tl.int64)
    if CHANNELS_LAST:
        return (((image * height + row) * R + column) * C)[:, None] + channel
    return (row * R + column)[:, None] + (image * C + channel) * (height * R)


@triton.jit
def _load(
    pointer, row, column, inside, channel, present, height, R, C: tl.constexpr, LAST: tl.constexpr, dtype: tl.constexpr
):
    """Pixels of one image of an entry with ``height`` rows, ``[pixels, BLOCK_C]``."""
    offsets = _offsets(row, column, channel, height, R, C, LAST)
    return tl.load(pointer + offsets, mask=inside[:, None] & present, other=0.0).to(dtype)


@triton.jit
def _near(index, size, target, dtype: tl.constexpr):
    """The two of ``size`` that are next to ``index`` of ``target`` (align_corners=False), and the share of the second.

    The position is ``position / (2 target)``, in whole numbers and so exact.
    """
    position = tl.maximum((2 * index + 1) * size - target, 0)
    before = tl.minimum(position // (2 * target), size - 1)
    return before, tl.minimum(before + 1, size - 1), (position - before * (2 * target)).to(dtype) / (2 * target)


@triton.jit
def _load_across(
    pointer, row, line, before, after, far, inside, channel, present, height, width, MIDDLE, C: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """Pixels of one row of a smaller entry, interpolated along its lines."""
    R = MIDDLE * width
    left = _load(pointer, row, line * width + before, inside, channel, present, height, R, C, True, dtype)
    right = _load(pointer, row, line * width + after, inside, channel, present, height, R, C, True, dtype)
    return left + far[:, None] * (right - left)


@triton.jit
def _load_between(
    pointer, row, column, inside, channel, present, height, width, H, MIDDLE, W, C: tl.constexpr, dtype: tl.constexpr
):
    """The same, interpolated along the rows as well."""
    line = column // W
    before, after, far = _near(column % W, width, W, dtype)
    upper, lower, down = _near(row, height, H, dtype)
    above = _load_across(
        pointer, upper, line, before, after, far, inside, channel, present, height, width, MIDDLE, C, dtype
    )
    below = _load_across(
        pointer, lower, line, before, after, far, inside, channel, present, height, width, MIDDLE, C, dtype
    )
    return above + down[:, None] * (below - above)


@triton.jit
def _attend(value, query, eps, C: tl.constexpr):
    """Logit and 1/rms per pixel (eq. 6)."""
    rstd = 1.0 / tl.sqrt(tl.sum(value * value, 1) / C + eps)
    return tl.sum(value * query, 1) * rstd, rstd


@triton.jit(do_not_specialize=["H", "FULL", "SMALL"])
def _mix_kernel(
    table, sizes, query_ptr, out_ptr, eps, H, MIDDLE, W, FULL, SMALL,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the mixture. ``table``: FULL entries of full size, then SMALL smaller ones of these ``sizes``."""
    R = MIDDLE * W
    row, column, inside = _tile(H, R, ROWS, COLUMNS)
    channel, present = _channels(C, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=present, other=0.0)
    dtype: tl.constexpr = query.dtype
    mixed = tl.zeros([ROWS * COLUMNS, BLOCK_C], dtype)
    largest = tl.full([ROWS * COLUMNS], -float("inf"), dtype)
    total = tl.zeros([ROWS * COLUMNS], dtype)
    for index in range(FULL + SMALL):
        pointer = _entry(table, index, out_ptr)
        if index < FULL:
            value = _load(pointer, row, column, inside, channel, present, H, R, C, CHANNELS_LAST, dtype)
        else:
            size = sizes + 2 * (index - FULL)
            height, width = tl.load(size), tl.load(size + 1)
            value = _load_between(pointer, row, column, inside, channel, present, height, width, H, MIDDLE, W, C, dtype)
        logit, _rstd = _attend(value, query, eps, C)
        new_largest = tl.maximum(largest, logit)
        decay = tl.exp(largest - new_largest)
        weight = tl.exp(logit - new_largest)
        mixed = mixed * decay[:, None] + value * weight[:, None]
        total = total * decay + weight
        largest = new_largest
    mixed = mixed / total[:, None]
    offsets = _offsets(row, column, channel, H, R, C, CHANNELS_LAST)
    tl.store(out_ptr + offsets, mixed.to(out_ptr.dtype.element_ty), mask=inside[:, None] & present)


@triton.jit(do_not_specialize=["H", "FULL", "SMALL", "GRADIENTS"])
def _gradient_kernel(
    table, sizes, query_ptr, grad_ptr, softmax_ptr, small_ptr, partial_ptr, eps, H, MIDDLE, W, FULL, SMALL, GRADIENTS,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the FULL entries of full size, and what those of the smaller ones follow from.

    ``table`` holds the entries as in :func:`_mix_kernel`, and from GRADIENTS on their gradients in the same order.
    R is the pixels of a row. ``softmax_ptr``, ``[2, B, H R]``: the logarithm of the softmax's sum, and the mean of
    <G, V> under its weights. ``small_ptr``, ``[SMALL, 3, B, H R]``: logit, 1/rms and <G, V>. ``partial_ptr``,
    ``[programs, C]``: the FULL entries' part of the query's gradient.
    """
    R = MIDDLE * W
    row, column, inside = _tile(H, R, ROWS, COLUMNS)
    channel, present = _channels(C, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=present, other=0.0)
    dtype: tl.constexpr = query.dtype
    grad = _load(grad_ptr, row, column, inside, channel, present, H, R, C, CHANNELS_LAST, dtype)
    pixel = (tl.program_id(1).to(tl.int64) * H + row) * R + column
    pixels = tl.num_programs(1).to(tl.int64) * H * R

    largest = tl.full([ROWS * COLUMNS], -float("inf"), dtype)
    total = tl.zeros([ROWS * COLUMNS], dtype)
    mean = tl.zeros([ROWS * COLUMNS], dtype)
    for index in range(FULL + SMALL):
        pointer = _entry(table, index, grad_ptr)
        if index < FULL:
            value = _load(pointer, row, column, inside, channel, present, H, R, C, CHANNELS_LAST, dtype)
        else:
            size = sizes + 2 * (index - FULL)
            height, width = tl.load(size), tl.load(size + 1)
            value = _load_between(pointer, row, column, inside, channel, present, height, width, H, MIDDLE, W, C, dtype)
        logit, rstd = _attend(value, query, eps, C)
        agreement = tl.sum(grad * value, 1)
        if index >= FULL:
            target = small_ptr + (index - FULL) * 3 * pixels + pixel
            tl.store(target, logit, mask=inside)
            tl.store(target + pixels, rstd, mask=inside)
            tl.store(target + 2 * pixels, agreement, mask=inside)
        new_largest = tl.maximum(largest, logit)
        decay = tl.exp(largest - new_largest)
        weight = tl.exp(logit - new_largest)
        mean = mean * decay + agreement * weight
        total = total * decay + weight
        largest = new_largest
    mean = mean / total
    log_sum = largest + tl.log(total)
    tl.store(softmax_ptr + pixel, log_sum, mask=inside)
    tl.store(softmax_ptr + pixels + pixel, mean, mask=inside)

    query_gradient = tl.zeros([BLOCK_C], dtype)
    for index in range(FULL):  # once more, mostly from the cache
        value = _load(
            _entry(table, index, grad_ptr), row, column, inside, channel, present, H, R, C, CHANNELS_LAST, dtype
        )
        logit, rstd = _attend(value, query, eps, C)
        weight = tl.exp(logit - log_sum)
        along_query = weight * (tl.sum(grad * value, 1) - mean) * rstd
        along_value = -along_query * logit * rstd / C
        query_gradient += tl.sum(value * along_query[:, None], 0)
        gradient = grad * weight[:, None] + query * along_query[:, None] + value * along_value[:, None]
        target = _entry(table, GRADIENTS + index, grad_ptr)
        offsets = _offsets(row, column, channel, H, R, C, CHANNELS_LAST)
        tl.store(target + offsets, gradient.to(grad_ptr.dtype.element_ty), mask=inside[:, None] & present)
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    each = tl.arange(0, BLOCK_C)
    tl.store(partial_ptr + program * C + each, query_gradient, mask=each < C)


@triton.jit(do_not_specialize=["H", "FULL", "SMALL", "GRADIENTS"])
def _narrow_kernel(
    table, sizes, query_ptr, grad_ptr, softmax_ptr, small_ptr, partial_ptr, H, MIDDLE, W, FULL, GRADIENTS,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the smaller entries: a program sums over the output rows that read a row of an entry.

    ``table`` holds FULL entries and the smaller ones, and from GRADIENTS on their gradients in the same order.
    ``sizes``: rows and pixels of a line of each smaller entry. The gradients have the output's lines.
    With w the interpolation weight of an output row, and V its value, itself a blend of three rows of the entry, the
    sum of w (a G + b q + c V) needs one product per element, w a G. The rest is done once, after the loop.
    """
    R = MIDDLE * W
    across = tl.cdiv(R, COLUMNS)
    none = tl.zeros([COLUMNS], tl.int32)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0) // across  # among those of all smaller entries; the ones with most work come first
    index = 0
    height = tl.load(sizes)
    while row >= height:
        row -= height
        index += 1
        height = tl.load(sizes + 2 * index)
    inside = column < R
    channel, present = _channels(C, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=present, other=0.0)
    dtype: tl.constexpr = query.dtype
    image = tl.program_id(1).to(tl.int64)
    pixels = tl.num_programs(1).to(tl.int64) * H * R
    statistics = small_ptr + index * 3 * pixels

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
        at = (image * H + output_row) * R + column
        logit = tl.load(statistics + at, mask=inside, other=0.0)
        rstd = tl.load(statistics + pixels + at, mask=inside, other=0.0)
        agreement = tl.load(statistics + 2 * pixels + at, mask=inside, other=0.0)
        log_sum = tl.load(softmax_ptr + at, mask=inside, other=0.0)
        mean = tl.load(softmax_ptr + pixels + at, mask=inside, other=0.0)
        offsets = _offsets(output_row + none, column, channel, H, R, C, CHANNELS_LAST)
        grad = tl.load(grad_ptr + offsets, mask=inside[:, None] & present, other=0.0).to(dtype)
        weight = tl.exp(logit - log_sum) * share
        along_query = weight * (agreement - mean) * rstd
        along_value = -along_query * logit * rstd / C
        gradient += grad * weight[:, None]
        above, below = tl.maximum(-ahead, 0.0), tl.maximum(ahead, 0.0)
        above_q += along_query * above
        same_q += along_query * share
        below_q += along_query * below
        above_v += along_value * above
        same_v += along_value * share
        below_v += along_value * below

    gradient += query * (above_q + same_q + below_q)[:, None]
    query_gradient = tl.zeros([BLOCK_C], dtype)
    pointer = _entry(table, FULL + index, grad_ptr)
    width = tl.load(sizes + 2 * index + 1)
    line = column // W
    before, after, far = _near(column % W, width, W, dtype)
    for step in range(-1, 2):
        neighbour = tl.minimum(tl.maximum(row + step, 0), height - 1)  # beyond the ends the weights are zero
        value = _load_across(
            pointer, neighbour + none, line, before, after, far, inside, channel, present, height, width, MIDDLE, C,
            dtype,
        )  # fmt: skip
        along_query = tl.where(step < 0, above_q, tl.where(step == 0, same_q, below_q))
        along_value = tl.where(step < 0, above_v, tl.where(step == 0, same_v, below_v))
        query_gradient += tl.sum(value * along_query[:, None], 0)
        gradient += value * along_value[:, None]
    target = _entry(table, GRADIENTS + FULL + index, grad_ptr)
    offsets = _offsets(row + none, column, channel, height, R, C, CHANNELS_LAST)
    tl.store(target + offsets, gradient.to(grad_ptr.dtype.element_ty), mask=inside[:, None] & present)
    program = image * tl.num_programs(0) + tl.program_id(0)
    each = tl.arange(0, BLOCK_C)
    tl.store(partial_ptr + program * C + each, query_gradient, mask=each < C)


# Tiles to choose from on the user's card: values per program, rows of pixels, warps. The first one is the default.
# None of them spills on sm_80, sm_89 and sm_90: tests/architectures/kernels/test_kernel_report.py
TILES = ((2048, 1, 4), (1024, 1, 4))
NARROW_TILES = ((2048, 1, 2), (4096, 1, 4))
CONTIGUOUS_PIXELS = 8  # where pixels lie side by side, so many of two bytes are loaded at once


def tiles_for(kernel: Any, block: int, channels_last: bool) -> tuple[Tile, ...]:
    """The tiles to choose from, for so many channels."""
    values_rows_warps: Sequence[tuple[int, int, int]] = NARROW_TILES if kernel is _narrow_kernel else TILES
    if kernel is _gradient_kernel and not channels_last:
        values_rows_warps = TILES[:1]  # the second one spills on sm_89
    pixels = 1 if channels_last else CONTIGUOUS_PIXELS
    return tuple(dict.fromkeys(_tile_of(kernel, block, pixels, *tile) for tile in values_rows_warps))


def _tile_of(kernel: Any, block: int, fewest: int, values: int, rows: int, warps: int) -> Tile:
    """A tile of about so many values, and of at least ``fewest`` pixels."""
    pixels = max(values // block, fewest)
    if values // block <= fewest > 1:  # as many more warps, or values spill: gradients have twice as many
        warps = min(8, warps * pixels * block // values) * (1 if kernel is _mix_kernel else 2)
    if kernel is _narrow_kernel:
        return Tile(warps, COLUMNS=pixels)
    rows = min(rows, pixels)
    return Tile(warps, ROWS=rows, COLUMNS=pixels // rows)


def block_of(channels: int) -> int:
    """Channels of a tile: the next power of two."""
    return triton.next_power_of_2(channels)


def _programs(rows: int, columns: int, tile: dict[str, int]) -> int:
    return triton.cdiv(rows, tile.get("ROWS", 1)) * triton.cdiv(columns, tile["COLUMNS"])


def _launch(
    kernel: Any, arguments: Sequence[Any], batch: int, rows: int, columns: int, like: Tensor, last: bool
) -> int:
    """Run a kernel on so many rows of pixels; returns the number of programs."""
    channels = like.shape[1]
    block = block_of(channels)
    constants = {"C": channels, "CHANNELS_LAST": last, "BLOCK_C": block}
    tile = launch(
        kernel,
        tiles_for(kernel, block, last),
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
    _launch(_mix_kernel, arguments, batch, rows, middle * width, out, channels_last)


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
    programs = max(_programs(rows, columns, t.constants) for t in tiles_for(_gradient_kernel, block, channels_last))
    if small:
        tiles = tiles_for(_narrow_kernel, block, channels_last)
        programs += max(_programs(heights, columns, tile.constants) for tile in tiles)
    softmax, statistics, partial = query.new_empty(
        pixels * (2 + 3 * small) + programs * batch * channels
    ).split((2 * pixels, 3 * small * pixels, programs * batch * channels))  # fmt: skip
    size = (rows, middle, width)
    arguments: tuple[Any, ...] = (
        table,
        sizes,
        query,
        grad,
        softmax,
        statistics,
        partial,
        eps,
        *size,
        full,
        small,
        gradients,
    )
    parts = _launch(_gradient_kernel, arguments, batch, rows, columns, grad, channels_last)
    if small:
        arguments = (
            table,
            sizes,
            query,
            grad,
            softmax,
            statistics,
            partial[parts * channels :],
            *size,
            full,
            gradients,
        )
        parts += _launch(_narrow_kernel, arguments, batch, heights, columns, grad, channels_last)
    return partial[: parts * channels].view(parts, channels).sum(0)


def lines_of(size: Sequence[int]) -> tuple[int, int]:
    """Lines of a row, and pixels of a line: of an image, a row is one line."""
    return (size[1] if len(size) == 3 else 1), size[-1]
