"""The mixture of XAttnRes (eq. 5 to 8) and its gradients as three Triton kernels for an NVIDIA GPU.

The output has ``H`` rows (the first spatial axis) and ``R`` columns (the other axes, flattened). Every entry has all
columns. An entry with fewer rows is interpolated along the rows inside the kernels, from the two rows next to each
output row. Such entries lie in memory with the channels of a pixel side by side, ``[B, h, R, C]``. Entries of full
size and the output may also be contiguous, ``[B, C, H, R]``.

Three rules keep the kernels fast:

* The entries are a loop, not an unrolled sequence, so that no entry is loaded ahead and nothing spills. Therefore the
  addresses of the entries come from a table in device memory, which :func:`_write_table` fills without a copy from the
  host.
* A program holds all channels of a few pixels. So sums over channels stay within a few threads.
* The gradient of a smaller entry is never written at full size. It is ``a G + b q + c V`` per pixel, with three
  numbers per pixel and entry. :func:`_gradient_kernel` writes what these follow from, and :func:`_narrow_kernel` sums
  over the output rows that read a row of the entry. No atomics: the same sums in every run.

With ``TRITON_INTERPRET=1`` set before this module is imported, the kernels run on a CPU, slowly. The tests do that.
"""
# ruff: noqa: ANN001, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TABLE_STEP = 16  # addresses that one launch writes


@triton.jit
def _write_table(table, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15):
    """Write the addresses of 16 tensors; arguments instead of a tuple, which older Tritons do not know."""
    tl.store(table, p0.to(tl.int64))
    tl.store(table + 1, p1.to(tl.int64))
    tl.store(table + 2, p2.to(tl.int64))
    tl.store(table + 3, p3.to(tl.int64))
    tl.store(table + 4, p4.to(tl.int64))
    tl.store(table + 5, p5.to(tl.int64))
    tl.store(table + 6, p6.to(tl.int64))
    tl.store(table + 7, p7.to(tl.int64))
    tl.store(table + 8, p8.to(tl.int64))
    tl.store(table + 9, p9.to(tl.int64))
    tl.store(table + 10, p10.to(tl.int64))
    tl.store(table + 11, p11.to(tl.int64))
    tl.store(table + 12, p12.to(tl.int64))
    tl.store(table + 13, p13.to(tl.int64))
    tl.store(table + 14, p14.to(tl.int64))
    tl.store(table + 15, p15.to(tl.int64))


@triton.jit
def _entry(table, index, like):
    """The pointer of an entry, of the type of ``like``."""
    return tl.multiple_of(tl.load(table + index).to(like.dtype), 16)


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
def _load_between(pointer, row, column, inside, channel, present, height, H, R, C: tl.constexpr, dtype: tl.constexpr):
    """The same of a smaller entry, interpolated along the rows (align_corners=False).

    The position of an output row among the entry's rows is ``position / (2 H)``, in whole numbers and so exact.
    """
    position = tl.maximum((2 * row + 1) * height - H, 0)
    upper = tl.minimum(position // (2 * H), height - 1)
    lower = tl.minimum(upper + 1, height - 1)
    far = (position - upper * (2 * H)).to(dtype) / (2 * H)
    above = _load(pointer, upper, column, inside, channel, present, height, R, C, True, dtype)
    below = _load(pointer, lower, column, inside, channel, present, height, R, C, True, dtype)
    return above + far[:, None] * (below - above)


@triton.jit
def _attend(value, query, eps, C: tl.constexpr):
    """Logit and 1/rms per pixel (eq. 6)."""
    rstd = 1.0 / tl.sqrt(tl.sum(value * value, 1) / C + eps)
    return tl.sum(value * query, 1) * rstd, rstd


@triton.jit(do_not_specialize=["H", "FULL", "SMALL"])
def _mix_kernel(
    table, heights, query_ptr, out_ptr, eps, H, R, FULL, SMALL,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the mixture. ``table``: FULL entries of full size, then SMALL smaller ones."""
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
            height = tl.load(heights + index - FULL)
            value = _load_between(pointer, row, column, inside, channel, present, height, H, R, C, dtype)
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


@triton.jit(do_not_specialize=["H", "FULL", "SMALL"])
def _gradient_kernel(
    table, heights, query_ptr, grad_ptr, softmax_ptr, small_ptr, partial_ptr, eps, H, R, FULL, SMALL,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the FULL entries of full size, and what those of the smaller ones follow from.

    ``table`` holds the entries as in :func:`_mix_kernel`, then the FULL gradients. ``softmax_ptr``, ``[2, B, H R]``:
    the logarithm of the softmax's sum, and the mean of <G, V> under its weights. ``small_ptr``, ``[SMALL, 3, B, H R]``:
    logit, 1/rms and <G, V>. ``partial_ptr``, ``[programs, C]``: the FULL entries' part of the query's gradient.
    """
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
            height = tl.load(heights + index - FULL)
            value = _load_between(pointer, row, column, inside, channel, present, height, H, R, C, dtype)
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
        target = _entry(table, FULL + SMALL + index, grad_ptr)
        offsets = _offsets(row, column, channel, H, R, C, CHANNELS_LAST)
        tl.store(target + offsets, gradient.to(grad_ptr.dtype.element_ty), mask=inside[:, None] & present)
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    each = tl.arange(0, BLOCK_C)
    tl.store(partial_ptr + program * C + each, query_gradient, mask=each < C)


@triton.jit(do_not_specialize=["H", "FULL", "SMALL"])
def _narrow_kernel(
    table, heights, query_ptr, grad_ptr, softmax_ptr, small_ptr, partial_ptr, H, R, FULL, SMALL,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the smaller entries: a program sums over the output rows that read a row of an entry.

    ``table`` holds FULL entries, SMALL entries, FULL gradients, SMALL gradients.
    With w the interpolation weight of an output row, and V its value, itself a blend of three rows of the entry, the
    sum of w (a G + b q + c V) needs one product per element, w a G. The rest is done once, after the loop.
    """
    across = tl.cdiv(R, COLUMNS)
    none = tl.zeros([COLUMNS], tl.int32)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0) // across  # among those of all smaller entries; the ones with most work come first
    index = 0
    height = tl.load(heights)
    while row >= height:
        row -= height
        index += 1
        height = tl.load(heights + index)
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
    for step in range(-1, 2):
        neighbour = tl.minimum(tl.maximum(row + step, 0), height - 1)  # beyond the ends the weights are zero
        offsets = _offsets(neighbour + none, column, channel, height, R, C, True)
        value = tl.load(pointer + offsets, mask=inside[:, None] & present, other=0.0).to(dtype)
        along_query = tl.where(step < 0, above_q, tl.where(step == 0, same_q, below_q))
        along_value = tl.where(step < 0, above_v, tl.where(step == 0, same_v, below_v))
        query_gradient += tl.sum(value * along_query[:, None], 0)
        gradient += value * along_value[:, None]
    target = _entry(table, 2 * FULL + SMALL + index, grad_ptr)
    offsets = _offsets(row + none, column, channel, height, R, C, True)
    tl.store(target + offsets, gradient.to(grad_ptr.dtype.element_ty), mask=inside[:, None] & present)
    program = image * tl.num_programs(0) + tl.program_id(0)
    each = tl.arange(0, BLOCK_C)
    tl.store(partial_ptr + program * C + each, query_gradient, mask=each < C)


# What triton.jit returns depends on TRITON_INTERPRET at the time of import
INTERPRETED = not isinstance(_mix_kernel, triton.runtime.JITFunction)

# Tiles to choose from on the user's card: values per program, rows of pixels, warps. The first one is the default.
# None of them spills on sm_80, sm_89 and sm_90: tests/architectures/kernels/test_kernel_report.py
TILES = ((2048, 1, 4), (1024, 1, 4))
NARROW_TILES = ((2048, 1, 2), (4096, 1, 4))


def tiles_for(kernel: Any, channels_last: bool) -> tuple[tuple[int, int, int], ...]:
    """The tiles to choose from."""
    if kernel is _narrow_kernel:
        return NARROW_TILES
    if kernel is _gradient_kernel and not channels_last:
        return TILES[:1]  # the second one spills on sm_89
    return TILES


def block_of(channels: int) -> int:
    """Channels of a tile: the next power of two."""
    return triton.next_power_of_2(channels)


def tile_of(block: int, values: int, rows: int) -> dict[str, int]:
    """Rows and columns of pixels in a tile of about so many values."""
    pixels = max(values // block, 1)
    rows = min(rows, pixels)
    return {"ROWS": rows, "COLUMNS": pixels // rows}


def sizes_of(kernel: Any, block: int, tile: tuple[int, int, int]) -> dict[str, int]:
    """What a kernel must know of a tile at compile time."""
    values, rows, _warps = tile
    sizes = tile_of(block, values, rows)
    return {"COLUMNS": sizes["COLUMNS"]} if kernel is _narrow_kernel else sizes


@lru_cache(maxsize=64)
def _tuned(kernel: Any, block: int, channels_last: bool) -> Any:
    """The kernel, to be tuned once per card, width and dtype; newer Tritons keep the result on disk."""
    tiles = tiles_for(kernel, channels_last)
    configs = [triton.Config(sizes_of(kernel, block, tile), num_warps=tile[2]) for tile in tiles]
    unique = list({str(config): config for config in configs}.values())
    more = {"cache_results": True} if "cache_results" in signature(triton.autotune).parameters else {}
    # Each tile fills as much of the partial sums as it has programs: what the tiles that were tried left must go.
    partial = [name for name in kernel.arg_names if name == "partial_ptr"]
    return triton.autotune(unique, key=["C", "CHANNELS_LAST"], do_bench=_bench, reset_to_zero=partial, **more)(kernel)


def _bench(call: Any, quantiles: Sequence[float]) -> list[float]:
    return triton.testing.do_bench(call, warmup=3, rep=15, quantiles=quantiles)


def _launch(kernel: Any, grid: Any, *arguments: Any, like: Tensor) -> None:
    """Run a kernel with the best tile; with the default one where nothing can be timed."""
    channels = like.shape[1]
    block = block_of(channels)
    channels_last = not like.is_contiguous()
    constants = {"C": channels, "CHANNELS_LAST": channels_last, "BLOCK_C": block}
    if INTERPRETED or torch.cuda.is_current_stream_capturing():
        tile = tiles_for(kernel, channels_last)[0]
        kernel[grid](*arguments, **constants, **sizes_of(kernel, block, tile), num_warps=tile[2])
    else:
        _tuned(kernel, block, channels_last)[grid](*arguments, **constants)


def _table(tensors: Sequence[Tensor]) -> Tensor:
    """The addresses of ``tensors`` in device memory."""
    table = torch.empty(triton.cdiv(len(tensors), TABLE_STEP) * TABLE_STEP, dtype=torch.int64, device=tensors[0].device)
    for start in range(0, len(tensors), TABLE_STEP):
        some = list(tensors[start : start + TABLE_STEP])
        some += [some[-1]] * (TABLE_STEP - len(some))
        _write_table[(1,)](table[start:], *some, num_warps=1)
    return table


@lru_cache(maxsize=256)
def _heights(heights: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(heights, dtype=torch.int32, device=device)


def mix(
    full: Sequence[Tensor], small: Sequence[Tensor], heights: tuple[int, ...], query: Tensor, eps: float, out: Tensor
) -> None:
    """Write the mixture (eq. 8) to ``out``.

    Args:
        full: Entries ``[B, C, H, R]``, in channels_last or contiguous, as ``out`` is.
        small: Entries ``[B, h R, C]`` with fewer rows, their columns already those of the output.
        heights: ``h`` of each of ``small``.
        query: ``[C]``, the pseudo-query times the RMSNorm scale; its dtype is computed in.
        eps: Added to the mean square.
        out: ``[B, C, H, R]``, of the entries' dtype.
    """
    batch, _, *size = out.shape
    with torch.cuda.device_of(out):
        _launch(_mix_kernel, _grid(size, batch), _table([*full, *small]), _heights(heights or (0,), out.device), query,
                out, eps, *size, len(full), len(small), like=out)  # fmt: skip


def differentiate(
    full: Sequence[Tensor], small: Sequence[Tensor], heights: tuple[int, ...], query: Tensor, eps: float, grad: Tensor,
    full_gradients: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Write the gradients of ``full`` to ``full_gradients``; return those of ``query`` and of ``small``.

    The arguments are those of :func:`mix`, with ``grad`` in the place of ``out``.
    """
    batch, channels, *size = grad.shape
    small_gradients = [torch.empty_like(entry) for entry in small]
    softmax = query.new_empty(2, batch, *size)
    statistics = query.new_empty(max(len(small), 1), 3, batch, *size)
    with torch.cuda.device_of(grad):
        table = _table([*full, *small, *full_gradients, *small_gradients])
        lines = _heights(heights or (0,), grad.device)
        counts = (*size, len(full), len(small))
        # the number of programs depends on the tile: room for the smallest one, of which the rest stays zero
        partial = _partial(query, batch, [tile_of(block_of(channels), *tile[:2]) for tile in TILES], *size)
        _launch(_gradient_kernel, _grid(size, batch), table, lines, query, grad, softmax, statistics, partial, eps,
                *counts, like=grad)  # fmt: skip
        query_gradient = partial.sum(0)
        if small:
            rows = sum(heights)
            tiles = [{**tile_of(block_of(channels), tile[0], 1), "ROWS": 1} for tile in NARROW_TILES]
            partial = _partial(query, batch, tiles, rows, size[1])
            _launch(_narrow_kernel, _grid((rows, size[1]), batch), table, lines, query, grad, softmax, statistics,
                    partial, *counts, like=grad)  # fmt: skip
            query_gradient += partial.sum(0)
    return query_gradient, small_gradients


def _grid(size: Sequence[int], batch: int) -> Any:
    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(size[0], tile.get("ROWS", 1)) * triton.cdiv(size[1], tile["COLUMNS"]), batch

    return grid


def _partial(query: Tensor, batch: int, tiles: Sequence[dict[str, int]], rows: int, columns: int) -> Tensor:
    programs = max(_grid((rows, columns), batch)(tile)[0] for tile in tiles) * batch
    return query.new_zeros(programs, query.numel())
