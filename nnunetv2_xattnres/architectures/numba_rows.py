"""The compiled half of ``numba_kernel.py``: forward and backward of XAttnRes on a box of rows.

Interpolation is a table of taps: output position p of an axis reads ``near * left + far * right``. The three axes lie
one after the other in a table, for each of the n entries: ``[n, D + H + W]``.

A tile is a row of one entry, or several short ones, ``[C, pixels]``. An entry that is smaller than the output is
widened, a row at a time, into one of two slots, even rows in the first, odd rows in the second: an output row lies
between two neighbours, and neighbouring output rows mostly lie between the same two. Gradients go the same way back.

Forward, a tile is done with before that of the next entry is made: the softmax is a running one, scaled anew where a
larger logit comes. Backward, the tiles of all entries are made before the first gradient, which needs all weights.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Numba functions: the arguments are arrays, and compiled for whatever they are

from __future__ import annotations

import numpy as np

from nnunetv2_xattnres.architectures.numba_compiled import compiled, row_of
from nnunetv2_xattnres.architectures.numba_lines import shrink, stretch
from nnunetv2_xattnres.architectures.numba_math import exponential


@compiled
def _read(layout, b, d, h, block, at, width):
    """Copy a row, ``[C, width]``, into ``block[:, at:]``."""
    step = layout[5]
    for c in range(block.shape[0]):
        source, target = row_of(layout, b, c, d, h, width, block), block[c, at : at + width]
        if step == 1:
            for x in range(width):
                target[x] = source[x]
        else:
            for x in range(width):
                target[x] = source[x * step]


@compiled
def _write(layout, b, d, h, block, at, width):
    """The reverse of :func:`_read`."""
    step = layout[5]
    for c in range(block.shape[0]):
        target, source = row_of(layout, b, c, d, h, width, block), block[c, at : at + width]
        if step == 1:
            for x in range(width):
                target[x] = source[x]
        else:
            for x in range(width):
                target[x * step] = source[x]


@compiled
def _widen(layout, taps, n, size, b, d, row, line, slot):
    """Interpolate one row of a smaller entry along depth and width, into ``slot``, ``[C, W]``."""
    left, right, near, far = taps[0][n], taps[1][n], taps[2][n], taps[3][n]
    step, across = layout[5], size[0] + size[1]
    width = int(right[across + size[2] - 1]) + 1
    padded = line[: width + 2]  # with both ends twice
    for c in range(slot.shape[0]):
        upper = row_of(layout, b, c, int(left[d]), row, width, line)
        if left[d] == right[d]:
            for x in range(width):
                padded[x + 1] = upper[x * step]
        else:
            lower = row_of(layout, b, c, int(right[d]), row, width, line)
            for x in range(width):
                padded[x + 1] = near[d] * upper[x * step] + far[d] * lower[x * step]
        padded[0], padded[width + 1] = padded[1], padded[width]
        stretch(padded, left[across:], near[across:], far[across:], slot[c])


@compiled
def _narrow(layout, taps, n, size, b, d, row, line, slot):
    """The adjoint of :func:`_widen`, added to the entry's gradient; ``slot`` is zero afterwards."""
    left, right, near, far = taps[0][n], taps[1][n], taps[2][n], taps[3][n]
    step, across = layout[5], size[0] + size[1]
    width = int(right[across + size[2] - 1]) + 1
    for c in range(slot.shape[0]):
        shrink(slot[c], left[across:], right[across:], near[across:], far[across:], line[:width])
        slot[c] = 0
        upper = row_of(layout, b, c, int(left[d]), row, width, line)
        for x in range(width):
            upper[x * step] += near[d] * line[x]
        if left[d] != right[d]:
            lower = row_of(layout, b, c, int(right[d]), row, width, line)
            for x in range(width):
                lower[x * step] += far[d] * line[x]


@compiled
def _fill(layout, full, taps, n, size, b, d, rows, line, slots, held, tile):
    """Some rows of entry ``n``, aligned (eq. 4)."""
    width = size[2]
    for h in rows:
        at = (h - rows.start) * width
        if full:
            _read(layout, b, d, h, tile, at, width)
            continue
        above, below = int(taps[0][n, size[0] + h]), int(taps[1][n, size[0] + h])
        for row in (above, below):
            if held[row % 2] != row:
                _widen(layout, taps, n, size, b, d, row, line, slots[row % 2])
                held[row % 2] = row
        near, far = taps[2][n, size[0] + h], taps[3][n, size[0] + h]
        for c in range(tile.shape[0]):
            upper, lower, target = slots[above % 2, c], slots[below % 2, c], tile[c, at : at + width]
            for x in range(width):
                target[x] = near * upper[x] + far * lower[x]


@compiled
def _spill(layout, full, taps, n, size, b, d, rows, line, slots, held, tile):
    """The adjoint of :func:`_fill`: a tile of gradients to the entry's own gradient."""
    width = size[2]
    for h in rows:
        at = (h - rows.start) * width
        if full:
            _write(layout, b, d, h, tile, at, width)
            continue
        above, below = int(taps[0][n, size[0] + h]), int(taps[1][n, size[0] + h])
        for row in (above, below):
            if held[row % 2] != row:
                if held[row % 2] >= 0:
                    _narrow(layout, taps, n, size, b, d, held[row % 2], line, slots[row % 2])
                held[row % 2] = row
        near, far = taps[2][n, size[0] + h], taps[3][n, size[0] + h]
        for c in range(tile.shape[0]):
            upper, lower, source = slots[above % 2, c], slots[below % 2, c], tile[c, at : at + width]
            if above == below:  # then far is zero
                for x in range(width):
                    upper[x] += source[x]
            else:
                for x in range(width):
                    upper[x] += near * source[x]
                    lower[x] += far * source[x]


@compiled
def _attend(tile, pixels, query, eps, logit, rstd):
    """Logit and 1/rms of every pixel of a tile (eq. 6)."""
    channels = tile.shape[0]
    square = rstd
    square[:pixels] = 0
    logit[:pixels] = 0
    for c in range(0, channels - 3, 4):  # several at a time, to read and write the sums less often
        t, u, v, w = tile[c], tile[c + 1], tile[c + 2], tile[c + 3]
        q, r, s, z = query[c], query[c + 1], query[c + 2], query[c + 3]
        for p in range(pixels):
            square[p] += t[p] * t[p] + u[p] * u[p] + v[p] * v[p] + w[p] * w[p]
            logit[p] += q * t[p] + r * u[p] + s * v[p] + z * w[p]
    for c in range(channels - channels % 4, channels):
        v, q = tile[c], query[c]
        for p in range(pixels):
            square[p] += v[p] * v[p]
            logit[p] += q * v[p]
    one, least = query.dtype.type(1), query.dtype.type(eps)
    share = one / query.dtype.type(channels)
    for p in range(pixels):
        rstd[p] = one / np.sqrt(square[p] * share + least)
        logit[p] *= rstd[p]


@compiled
def _products(tile, other, pixels, total):
    """Sum over the channels of the product of two tiles, for every pixel."""
    channels = tile.shape[0]
    total[:pixels] = 0
    for c in range(0, channels - 1, 2):
        v, w, g, k = tile[c], tile[c + 1], other[c], other[c + 1]
        for p in range(pixels):
            total[p] += v[p] * g[p] + w[p] * k[p]
    if channels % 2:
        v, g = tile[channels - 1], other[channels - 1]
        for p in range(pixels):
            total[p] += v[p] * g[p]


@compiled
def _add(tile, pixels, keep, take, mixed):
    """``keep * mixed + take * tile``, in place."""
    channels = tile.shape[0]
    for c in range(0, channels - 1, 2):
        v, w, s, t = tile[c], tile[c + 1], mixed[c], mixed[c + 1]
        for p in range(pixels):
            s[p] = keep[p] * s[p] + take[p] * v[p]
            t[p] = keep[p] * t[p] + take[p] * w[p]
    if channels % 2:
        v, s = tile[channels - 1], mixed[channels - 1]
        for p in range(pixels):
            s[p] = keep[p] * s[p] + take[p] * v[p]


@compiled
def mix(layouts, full, taps, size, query, eps, height, box, out):
    """Write the box ``(image, first and last slice, first and last row)`` of the output (eq. 8)."""
    b, first_slice, last_slice, first_row, last_row = box
    entries, channels, width = layouts.shape[0], query.shape[0], size[2]
    zero, one = query.dtype.type(0), query.dtype.type(1)
    line = np.empty(width + 2, query.dtype)
    slots = np.empty((entries, 2, channels, width), query.dtype)
    held = np.empty((entries, 2), np.int64)
    tile = np.empty((channels, width * height), query.dtype)
    mixed, pixel = np.empty_like(tile), np.empty((6, width * height), query.dtype)
    logit, rstd, largest, total, keep, take = pixel[0], pixel[1], pixel[2], pixel[3], pixel[4], pixel[5]
    for d in range(first_slice, last_slice):
        held[:] = -1
        for h in range(first_row, last_row, height):
            rows = range(h, min(h + height, last_row))
            pixels = len(rows) * width
            largest[:pixels] = -np.inf
            total[:pixels] = 0
            mixed[:, :pixels] = 0
            for n in range(entries):
                _fill(layouts[n], full[n], taps, n, size, b, d, rows, line, slots[n], held[n], tile)
                _attend(tile, pixels, query, eps, logit, rstd)
                for p in range(pixels):
                    step = logit[p] - largest[p]
                    smaller = exponential(-step if step > zero else step)
                    keep[p] = smaller if step > zero else one
                    take[p] = one if step > zero else smaller
                    largest[p] = logit[p] if step > zero else largest[p]
                    total[p] = keep[p] * total[p] + take[p]
                _add(tile, pixels, keep, take, mixed)
            for c in range(channels):
                s = mixed[c]
                for p in range(pixels):
                    s[p] /= total[p]
            for row in rows:
                _write(out, b, d, row, mixed, (row - h) * width, width)


@compiled
def _softmax(logits, pixels, weights):
    """The weight of every entry, ``[n, pixels]`` (eq. 7)."""
    entries = logits.shape[0]
    largest, total = weights[0], weights[entries]  # the last row is for the sum
    largest[:pixels] = logits[0, :pixels]
    for n in range(1, entries):
        for p in range(pixels):
            largest[p] = max(largest[p], logits[n, p])
    total[:pixels] = 0
    for n in range(entries - 1, -1, -1):
        for p in range(pixels):
            weights[n, p] = exponential(logits[n, p] - largest[p])
            total[p] += weights[n, p]
    for n in range(entries):
        for p in range(pixels):
            weights[n, p] /= total[p]


@compiled
def differentiate(layouts, full, taps, size, query, eps, height, box, upstream, gradients, query_gradient):
    """Write or add the box's part of all gradients; see ``aggregate_backward`` for the equations."""
    b, first_slice, last_slice, first_row, last_row = box
    entries, channels, width = layouts.shape[0], query.shape[0], size[2]
    share = query.dtype.type(-1) / query.dtype.type(channels)
    line = np.empty(width + 2, query.dtype)
    slots = np.empty((entries, 2, channels, width), query.dtype)
    gradient_slots = np.zeros((entries, 2, channels, width), query.dtype)
    held, gradient_held = np.empty((entries, 2), np.int64), np.empty((entries, 2), np.int64)
    tiles = np.empty((entries, channels, width * height), query.dtype)
    incoming, mean = np.empty_like(tiles[0]), np.empty(width * height, query.dtype)
    logits, weights = np.empty_like(tiles[:, 0]), np.empty((entries + 1, width * height), query.dtype)
    rstds, agreements = np.empty_like(logits), np.empty_like(logits)
    for d in range(first_slice, last_slice):
        held[:] = -1
        gradient_held[:] = -1
        for h in range(first_row, last_row, height):
            rows = range(h, min(h + height, last_row))
            pixels = len(rows) * width
            for row in rows:
                _read(upstream, b, d, row, incoming, (row - h) * width, width)
            for n in range(entries):
                _fill(layouts[n], full[n], taps, n, size, b, d, rows, line, slots[n], held[n], tiles[n])
                _attend(tiles[n], pixels, query, eps, logits[n], rstds[n])
                _products(tiles[n], incoming, pixels, agreements[n])
            _softmax(logits, pixels, weights)
            mean[:pixels] = 0
            for n in range(entries):
                for p in range(pixels):
                    mean[p] += weights[n, p] * agreements[n, p]
            for n in range(entries):
                weight, along_query, along_value = weights[n], agreements[n], logits[n]
                for p in range(pixels):
                    along_query[p] = weight[p] * (along_query[p] - mean[p]) * rstds[n, p]
                    along_value[p] *= along_query[p] * rstds[n, p] * share
                for c in range(channels):
                    value, g, q = tiles[n, c], incoming[c], query[c]
                    total = query.dtype.type(0)
                    for p in range(pixels):
                        total += along_query[p] * value[p]
                        value[p] = weight[p] * g[p] + along_query[p] * q + along_value[p] * value[p]
                    query_gradient[c] += total
                _spill(gradients[n], full[n], taps, n, size, b, d, rows, line, gradient_slots[n], gradient_held[n],
                       tiles[n])  # fmt: skip
        for n in range(entries):
            for slot in range(2):
                if not full[n] and gradient_held[n, slot] >= 0:
                    row = gradient_held[n, slot]
                    _narrow(gradients[n], taps, n, size, b, d, row, line, gradient_slots[n, slot])
