"""The compiled half of ``numba_kernel.py``: forward and backward of XAttnRes on a box of rows.

Interpolation is a table of taps: output position p of an axis reads ``near * left + far * right``. The three axes lie
one after the other in a table, for each of the n entries: ``[n, D + H + W]``.

A block is a row of all entries, or several short ones, ``[n, C, pixels]``. An entry that is smaller than the output is
widened, a row at a time, into one of two slots, even rows in the first, odd rows in the second: an output row lies
between two neighbours, and neighbouring output rows mostly lie between the same two. Gradients go the same way back.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Numba functions: the arguments are arrays, and compiled for whatever they are

from __future__ import annotations

import numpy as np

from nnunetv2_xattnres.architectures.numba_compiled import compiled, row_of


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
    step, across, wide = layout[5], size[0] + size[1], size[2]
    width = int(right[across + wide - 1]) + 1
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
        target = slot[c]
        if wide == 2 * width:  # as below, in a form that vector instructions can do
            quarter, rest = line.dtype.type(0.25), line.dtype.type(0.75)
            for x in range(width):
                target[2 * x] = quarter * padded[x] + rest * padded[x + 1]
                target[2 * x + 1] = rest * padded[x + 1] + quarter * padded[x + 2]
        else:
            for x in range(wide):
                target[x] = (
                    near[across + x] * padded[left[across + x] + 1] + far[across + x] * padded[right[across + x] + 1]
                )


@compiled
def _narrow(layout, taps, n, size, b, d, row, line, slot):
    """The adjoint of :func:`_widen`, added to the entry's gradient; ``slot`` is zero afterwards."""
    left, right, near, far = taps[0][n], taps[1][n], taps[2][n], taps[3][n]
    step, across, wide = layout[5], size[0] + size[1], size[2]
    width = int(right[across + wide - 1]) + 1
    for c in range(slot.shape[0]):
        source = slot[c]
        if wide == 2 * width:
            quarter, rest = line.dtype.type(0.25), line.dtype.type(0.75)
            line[0] = rest * (source[0] + source[1]) + quarter * source[0]
            for x in range(1, width):
                line[x] = rest * (source[2 * x] + source[2 * x + 1]) + quarter * source[2 * x - 1]
            for x in range(width - 1):
                line[x] += quarter * source[2 * x + 2]
            line[width - 1] += quarter * source[wide - 1]
        else:
            line[:width] = 0
            for x in range(wide):
                line[left[across + x]] += near[across + x] * source[x]
                line[right[across + x]] += far[across + x] * source[x]
        source[:] = 0
        upper = row_of(layout, b, c, int(left[d]), row, width, line)
        for x in range(width):
            upper[x * step] += near[d] * line[x]
        if left[d] != right[d]:
            lower = row_of(layout, b, c, int(right[d]), row, width, line)
            for x in range(width):
                lower[x * step] += far[d] * line[x]


@compiled
def _fill(layouts, full, taps, size, b, d, rows, line, slots, held, block):
    """The block of some rows of all entries, aligned (eq. 4)."""
    width = size[2]
    for n in range(block.shape[0]):
        for h in rows:
            at = (h - rows.start) * width
            if full[n]:
                _read(layouts[n], b, d, h, block[n], at, width)
                continue
            above, below = int(taps[0][n, size[0] + h]), int(taps[1][n, size[0] + h])
            for row in (above, below):
                if held[n, row % 2] != row:
                    _widen(layouts[n], taps, n, size, b, d, row, line, slots[n, row % 2])
                    held[n, row % 2] = row
            near, far = taps[2][n, size[0] + h], taps[3][n, size[0] + h]
            for c in range(block.shape[1]):
                upper, lower = slots[n, above % 2, c], slots[n, below % 2, c]
                target = block[n, c, at : at + width]
                for x in range(width):
                    target[x] = near * upper[x] + far * lower[x]


@compiled
def _spill(layouts, full, taps, size, b, d, rows, line, slots, held, block):
    """The adjoint of :func:`_fill`: a block of gradients to the entries' own gradients."""
    width = size[2]
    for n in range(block.shape[0]):
        for h in rows:
            at = (h - rows.start) * width
            if full[n]:
                _write(layouts[n], b, d, h, block[n], at, width)
                continue
            above, below = int(taps[0][n, size[0] + h]), int(taps[1][n, size[0] + h])
            for row in (above, below):
                if held[n, row % 2] != row:
                    if held[n, row % 2] >= 0:
                        _narrow(layouts[n], taps, n, size, b, d, held[n, row % 2], line, slots[n, row % 2])
                    held[n, row % 2] = row
            near, far = taps[2][n, size[0] + h], taps[3][n, size[0] + h]
            for c in range(block.shape[1]):
                source = block[n, c, at : at + width]
                upper, lower = slots[n, above % 2, c], slots[n, below % 2, c]
                for x in range(width):
                    upper[x] += near * source[x]
                if above != below:
                    for x in range(width):
                        lower[x] += far * source[x]


@compiled
def _attend(block, pixels, query, eps, weights, logits, rstd):
    """Logits, 1/rms and softmax weights of a block, ``[n, pixels]`` each (eq. 6 and 7)."""
    entries, channels = block.shape[0], block.shape[1]
    one = query.dtype.type(1)
    share = one / query.dtype.type(channels)
    for n in range(entries):
        square, logit = rstd[n], logits[n]
        square[:pixels] = 0
        logit[:pixels] = 0
        for c in range(0, channels - 1, 2):  # two at a time halve the reading and writing of the sums
            v, w, q, r = block[n, c], block[n, c + 1], query[c], query[c + 1]
            for p in range(pixels):
                square[p] += v[p] * v[p] + w[p] * w[p]
                logit[p] += q * v[p] + r * w[p]
        if channels % 2:
            v, q = block[n, channels - 1], query[channels - 1]
            for p in range(pixels):
                square[p] += v[p] * v[p]
                logit[p] += q * v[p]
        for p in range(pixels):
            square[p] = one / np.sqrt(square[p] * share + query.dtype.type(eps))
            logit[p] *= square[p]
    largest, total = weights[0], weights[entries]  # the last row of weights is for the sum
    largest[:pixels] = logits[0, :pixels]
    for n in range(1, entries):
        for p in range(pixels):
            largest[p] = max(largest[p], logits[n, p])
    total[:pixels] = 0
    for n in range(entries - 1, -1, -1):
        for p in range(pixels):
            weights[n, p] = np.exp(logits[n, p] - largest[p])
            total[p] += weights[n, p]
    for n in range(entries):
        for p in range(pixels):
            weights[n, p] /= total[p]


@compiled
def mix(layouts, full, taps, size, query, eps, height, box, out):
    """Write the box ``(image, first and last slice, first and last row)`` of the output (eq. 8)."""
    b, first_slice, last_slice, first_row, last_row = box
    entries, channels, width = layouts.shape[0], query.shape[0], size[2]
    line = np.empty(width + 2, query.dtype)
    slots = np.empty((entries, 2, channels, width), query.dtype)
    held = np.empty((entries, 2), np.int64)
    block = np.empty((entries, channels, width * height), query.dtype)
    weights = np.empty((entries + 1, width * height), query.dtype)
    logits, rstd = np.empty_like(weights), np.empty_like(weights)
    for d in range(first_slice, last_slice):
        held[:] = -1
        for h in range(first_row, last_row, height):
            rows = range(h, min(h + height, last_row))
            pixels = len(rows) * width
            _fill(layouts, full, taps, size, b, d, rows, line, slots, held, block)
            _attend(block, pixels, query, eps, weights, logits, rstd)
            for c in range(channels):
                total = block[0, c]
                for p in range(pixels):
                    total[p] *= weights[0, p]
                for n in range(1, entries - 1, 2):
                    v, w = block[n, c], block[n + 1, c]
                    a, other = weights[n], weights[n + 1]
                    for p in range(pixels):
                        total[p] += a[p] * v[p] + other[p] * w[p]
                if entries % 2 == 0:
                    v, a = block[entries - 1, c], weights[entries - 1]
                    for p in range(pixels):
                        total[p] += a[p] * v[p]
            for row in rows:
                _write(out, b, d, row, block[0], (row - h) * width, width)


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
    block = np.empty((entries, channels, width * height), query.dtype)
    incoming = np.empty((channels, width * height), query.dtype)
    weights = np.empty((entries + 1, width * height), query.dtype)
    logits, rstd, agreement = np.empty_like(weights), np.empty_like(weights), np.empty_like(weights)
    for d in range(first_slice, last_slice):
        held[:] = -1
        gradient_held[:] = -1
        for h in range(first_row, last_row, height):
            rows = range(h, min(h + height, last_row))
            pixels = len(rows) * width
            _fill(layouts, full, taps, size, b, d, rows, line, slots, held, block)
            _attend(block, pixels, query, eps, weights, logits, rstd)
            for row in rows:
                _read(upstream, b, d, row, incoming, (row - h) * width, width)
            mean = agreement[entries]
            mean[:pixels] = 0
            for n in range(entries):
                agree, weight = agreement[n], weights[n]
                agree[:pixels] = 0
                for c in range(0, channels - 1, 2):
                    v, w, g, k = block[n, c], block[n, c + 1], incoming[c], incoming[c + 1]
                    for p in range(pixels):
                        agree[p] += v[p] * g[p] + w[p] * k[p]
                if channels % 2:
                    v, g = block[n, channels - 1], incoming[channels - 1]
                    for p in range(pixels):
                        agree[p] += v[p] * g[p]
                for p in range(pixels):
                    mean[p] += weight[p] * agree[p]
            for n in range(entries):
                weight, along_query, along_value = weights[n], agreement[n], logits[n]
                for p in range(pixels):
                    along_query[p] = weight[p] * (along_query[p] - mean[p]) * rstd[n, p]
                    along_value[p] *= along_query[p] * rstd[n, p] * share
                for c in range(channels):
                    value, g, q = block[n, c], incoming[c], query[c]
                    total = query.dtype.type(0)
                    for p in range(pixels):
                        total += along_query[p] * value[p]
                        value[p] = weight[p] * g[p] + along_query[p] * q + along_value[p] * value[p]
                    query_gradient[c] += total
            _spill(gradients, full, taps, size, b, d, rows, line, gradient_slots, gradient_held, block)
        for n in range(entries):
            for slot in range(2):
                if not full[n] and gradient_held[n, slot] >= 0:
                    row = gradient_held[n, slot]
                    _narrow(gradients[n], taps, n, size, b, d, row, line, gradient_slots[n, slot])
