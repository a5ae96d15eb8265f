"""How the Triton kernels of the mixture read and write pixels: places in memory, and interpolation on the way.

The output has ``H`` rows (the first spatial axis) of ``MIDDLE`` lines (the second of three axes; one in 2D) of ``W``
pixels, and a row has ``R = MIDDLE W`` columns. An entry may have fewer rows and shorter lines: it is interpolated along
both while it is read, from the four pixels next to each output pixel. Such entries lie in memory with the channels of a
pixel side by side, ``[B, h, MIDDLE, w, C]``. Entries of full size, the output, and all gradients may also be
contiguous, with the channels outside.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

import triton
import triton.language as tl

from nnunetv2_xattnres.architectures.kernels.triton_launch import entry_at


@triton.jit
def columns_of(R, W, COLUMNS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Columns of a program's pixels, which of them exist, and their line and place in it."""
    column = tl.program_id(0) % tl.cdiv(R, COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < R
    existing = tl.minimum(column, R - 1)  # so that what is read needs no mask
    return existing if CHANNELS_LAST else column, inside, existing // W, existing % W


@triton.jit
def image_of(pointer, elements):
    """Where the program's image begins, in 64 bits, which large volumes need. Places within it have 32."""
    return pointer + tl.program_id(1).to(tl.int64) * elements


@triton.jit
def _places(row, column, height, R, C: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where the pixels of a row of an image lie, ``[columns, BLOCK_C]``."""
    channel = tl.arange(0, BLOCK_C)[None, :]
    if CHANNELS_LAST:
        return ((row * R + column) * C)[:, None] + channel
    return (row * R + column)[:, None] + channel * (height * R)


@triton.jit
def _load_channels(pointers, C: tl.constexpr, BLOCK_C: tl.constexpr):
    if C == BLOCK_C:
        return tl.load(pointers)
    return tl.load(pointers, mask=(tl.arange(0, BLOCK_C) < C)[None, :], other=0.0)


@triton.jit
def _mask(inside, C: tl.constexpr, BLOCK_C: tl.constexpr):
    return inside[:, None] if C == BLOCK_C else inside[:, None] & (tl.arange(0, BLOCK_C) < C)[None, :]


@triton.jit
def load_pixels(
    image, row, column, inside, height, R, C: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """Pixels of a row of an image of full size, ``[columns, BLOCK_C]``."""
    places = image + _places(row, column, height, R, C, BLOCK_C, CHANNELS_LAST)
    if CHANNELS_LAST:
        return _load_channels(places, C, BLOCK_C).to(dtype)
    return tl.load(places, mask=_mask(inside, C, BLOCK_C), other=0.0).to(dtype)


@triton.jit
def store_pixels(
    image, value, row, column, written, height, R, C: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr
):
    """Write pixels of a row of an image, ``[columns, BLOCK_C]``."""
    places = image + _places(row, column, height, R, C, BLOCK_C, CHANNELS_LAST)
    tl.store(places, value.to(image.dtype.element_ty), mask=_mask(written, C, BLOCK_C))


@triton.jit
def _near(index, size, target, dtype: tl.constexpr):
    """The two of ``size`` that are next to ``index`` of ``target`` (align_corners=False), and the share of the second.

    The position is ``position / (2 target)``. A division of whole numbers takes longer than all else here, so the
    quotient is estimated in floats; the rest is exact again.
    """
    unit = 2 * target
    position = tl.maximum((2 * index + 1) * size - target, 0)
    before = (position.to(tl.float32) * (1.0 / unit)).to(tl.int32)
    before = tl.where(position < before * unit, before - 1, before)
    before = tl.where(position < (before + 1) * unit, before, before + 1)
    before = tl.minimum(before, size - 1)
    return before, tl.minimum(before + 1, size - 1), (position - before * unit).to(dtype) * (1.0 / unit.to(dtype))


@triton.jit
def near_in_line(line, across, width, W, dtype: tl.constexpr):
    """The two pixels of a smaller entry's row that are next to a place in a line, and the share of the second."""
    before, after, far = _near(across, width, W, dtype)
    return before + line * width, after + line * width, far


@triton.jit
def load_across(
    row, before, after, far, C: tl.constexpr, BLOCK_C: tl.constexpr, dtype: tl.constexpr
):  # fmt: skip
    """Pixels of one row of a smaller entry, interpolated along its lines."""
    channel = tl.arange(0, BLOCK_C)[None, :]
    left = _load_channels(row + ((before * C)[:, None] + channel), C, BLOCK_C).to(dtype)
    right = _load_channels(row + ((after * C)[:, None] + channel), C, BLOCK_C).to(dtype)
    return left + far[:, None] * (right - left)


@triton.jit
def _load_between(
    pointer, first, second, line, across, height, width, H, MIDDLE, W, C: tl.constexpr, BLOCK_C: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """The pixels of two rows of the output in a smaller entry, interpolated along lines and rows.

    The rows lie between the same two of the entry where the ratio of sizes is even: these are loaded once.
    """
    pixels = MIDDLE * width * C
    image = image_of(pointer, height * pixels)
    before, after, far = near_in_line(line, across, width, W, dtype)
    upper, lower, down = _near(first, height, H, dtype)
    next_upper, next_lower, next_down = _near(second, height, H, dtype)
    above = load_across(image + upper * pixels, before, after, far, C, BLOCK_C, dtype)
    below = load_across(image + lower * pixels, before, after, far, C, BLOCK_C, dtype)
    value = above + down * (below - above)
    if next_upper != upper:
        above = load_across(image + next_upper * pixels, before, after, far, C, BLOCK_C, dtype)
        below = load_across(image + next_lower * pixels, before, after, far, C, BLOCK_C, dtype)
    return value, above + next_down * (below - above)


@triton.jit
def load_rows(
    table, sizes, index, like, first, second, column, inside, line, across, H, MIDDLE, W, FULL, C: tl.constexpr,
    BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The pixels of two rows of the output in an entry: the FULL first ones have full size."""
    pointer = entry_at(table, index, like)
    R = MIDDLE * W
    if index < FULL:
        image = image_of(pointer, H * R * C)
        value = load_pixels(image, first, column, inside, H, R, C, BLOCK_C, CHANNELS_LAST, dtype)
        other = load_pixels(image, second, column, inside, H, R, C, BLOCK_C, CHANNELS_LAST, dtype)
    else:
        size = sizes + 2 * (index - FULL)
        value, other = _load_between(
            pointer, first, second, line, across, tl.load(size), tl.load(size + 1), H, MIDDLE, W, C, BLOCK_C, dtype
        )
    return value, other
