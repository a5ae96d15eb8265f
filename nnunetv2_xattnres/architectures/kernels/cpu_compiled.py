"""All functions that Numba compiles: XAttnRes (eq. 4 to 8, with an analytic backward) and max pooling on a CPU.

They are in one file because Numba compiles a cached function anew only when the file of that function changes.
``cpu_loading.py`` compiles the entry points, which are at the end, and ``cpu_threads.py`` runs them.

**Interpolation** is a table of taps: output position p of an axis reads ``near * left + far * right``. The three axes
follow each other in a table, for each of the n entries: ``[n, D + H + W]``.

**A tile** holds a row of one entry, or several short rows, ``[C, pixels]``. Each output row of a smaller entry blends
two adjacent source rows. Both are interpolated along the width once and cached in two slots, chosen by the parity of
the source row, because consecutive output rows usually need the same pair. Gradients take the same way back.

**Forward**, a tile is finished before the tile of the next entry is made. The softmax is a running one: the sum is
rescaled when a larger logit comes. **Backward**, the tiles of all entries are made before the first gradient, because
each gradient needs all weights.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Numba functions: the arguments are arrays, and compiled for whatever they are

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic, overload

# sums in any order, as vector instructions need; but NaN and infinity stay what they are
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz"}}

LOWEST = np.float32(-87)  # below, single precision has no normal number
LOG2_E = np.float32(1.44269504)
LN_2 = np.float32(0.693359375), np.float32(-2.12194440e-4)  # a sum, so that its products are exact
# e^r = 1 + r + r^2 P(r) for |r| <= ln 2 / 2, to about one unit in the last place
P = tuple(map(np.float32, (1.98756915e-4, 1.39819995e-3, 8.33345192e-3, 4.16657959e-2, 1.66666655e-1, 5.00000012e-1)))


# ---- memory


@intrinsic
def _at(_context, address, like):
    """A pointer to elements of the type of ``like``, a number."""

    def cast(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.int64, like), cast


@intrinsic
def _take_next(_context, address):
    """Read the counter at ``address``, an int64, and add one to it, without another thread in between."""

    def take(context, builder, signature, arguments):
        integer = ir.IntType(64)
        counter = builder.inttoptr(arguments[0], integer.as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(integer, 1), "monotonic")

    return types.int64(types.int64), take


@njit(**OPTIONS)
def _row_of(layout, b, c, d, h, width, like):
    """A row of a tensor as it lies in memory, ``[(width - 1) * step + 1]``, of the type of ``like``, an array."""
    offset = b * layout[1] + c * layout[2] + d * layout[3] + h * layout[4]
    return carray(_at(layout[0] + offset * like.itemsize, like.dtype.type(0)), ((width - 1) * layout[5] + 1,))


# ---- exponential function, in single precision in a form that vector instructions can do


@intrinsic
def _float_of(_context, bits):
    def cast(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), cast


def exponential(x: float) -> float:
    """e to the power of ``x <= 0``; the smallest normal number where that is less."""
    return np.exp(x)


# not in any order: the two parts of ln 2 are subtracted one after the other
@overload(exponential, jit_options={**OPTIONS, "fastmath": {"contract", "nsz"}})
def _exponential(x) -> Callable:
    if x != types.float32:
        return lambda x: np.exp(x)

    def implementation(x):
        x = LOWEST if x < LOWEST else x  # NaN stays NaN
        powers = np.floor(x * LOG2_E + np.float32(0.5))
        r = x - powers * LN_2[0] - powers * LN_2[1]
        tail = ((((P[0] * r + P[1]) * r + P[2]) * r + P[3]) * r + P[4]) * r + P[5]
        exponent = (np.int32(powers) + np.int32(127)) << np.int32(23)
        return (tail * r * r + r + np.float32(1)) * _float_of(np.int32(exponent))

    return implementation


# ---- linear interpolation of one row, and its adjoint
#
# Where the target is twice, four times, six times ... as long as the source, its pixels between two source pixels have
# the same weights everywhere. Forms for that need no table of positions, and so can use vector instructions.


@njit(**OPTIONS)
def stretch(source, left, near, far, target):
    """``target[x] = near[x] * source[left[x] + 1] + far[x] * source[left[x] + 2]``.

    ``source`` has both of its ends twice. The tables may be longer than ``target``.
    """
    width, wide = source.shape[0] - 2, target.shape[0]
    times = wide // width
    if times * width != wide or times % 2:
        for x in range(wide):
            target[x] = near[x] * source[left[x] + 1] + far[x] * source[left[x] + 2]
        return
    if times == 2:
        quarter, rest = target.dtype.type(0.25), target.dtype.type(0.75)
        for x in range(width):
            a, b, c = source[x], source[x + 1], source[x + 2]
            target[2 * x] = quarter * a + rest * b
            target[2 * x + 1] = rest * b + quarter * c
        return
    half = times // 2
    ramp = far[half : half + times]
    for x in range(half):
        target[x], target[wide - 1 - x] = source[1], source[width]
    if times == 4:
        r, s, t, u = ramp[0], ramp[1], ramp[2], ramp[3]
        inner = target[2:]
        for x in range(width - 1):
            a, slope = source[x + 1], source[x + 2] - source[x + 1]
            inner[4 * x] = a + slope * r
            inner[4 * x + 1] = a + slope * s
            inner[4 * x + 2] = a + slope * t
            inner[4 * x + 3] = a + slope * u
        return
    for x in range(width - 1):
        a, slope = source[x + 1], source[x + 2] - source[x + 1]
        between = target[half + times * x : half + times * (x + 1)]
        for i in range(times):
            between[i] = a + slope * ramp[i]


@njit(**OPTIONS)
def shrink(source, left, right, near, far, target):
    """The adjoint of :func:`stretch`, without the doubled ends: ``target`` is overwritten."""
    width, wide = target.shape[0], source.shape[0]
    times = wide // width
    target[:] = 0
    if times * width != wide or times % 2:
        for x in range(wide):
            target[left[x]] += near[x] * source[x]
            target[right[x]] += far[x] * source[x]
        return
    if times == 2:
        quarter, rest = target.dtype.type(0.25), target.dtype.type(0.75)
        target[0] = rest * (source[0] + source[1]) + quarter * source[0]
        for x in range(1, width):
            target[x] = rest * (source[2 * x] + source[2 * x + 1]) + quarter * source[2 * x - 1]
        for x in range(width - 1):
            target[x] += quarter * source[2 * x + 2]
        target[width - 1] += quarter * source[wide - 1]
        return
    half = times // 2
    ramp = far[half : half + times]
    for x in range(half):
        target[0] += source[x]
        target[width - 1] += source[wide - 1 - x]
    for x in range(width - 1):
        between = source[half + times * x : half + times * (x + 1)]
        total = weighed = target.dtype.type(0)
        for i in range(times):
            total += between[i]
            weighed += ramp[i] * between[i]
        target[x] += total - weighed
        target[x + 1] += weighed


# ---- XAttnRes on a box of rows


@njit(**OPTIONS)
def _read(layout, b, d, h, block, at, width):
    """Copy a row, ``[C, width]``, into ``block[:, at:]``."""
    step = layout[5]
    for c in range(block.shape[0]):
        source, target = _row_of(layout, b, c, d, h, width, block), block[c, at : at + width]
        if step == 1:
            for x in range(width):
                target[x] = source[x]
        else:
            for x in range(width):
                target[x] = source[x * step]


@njit(**OPTIONS)
def _write(layout, b, d, h, block, at, width):
    """The reverse of :func:`_read`."""
    step = layout[5]
    for c in range(block.shape[0]):
        target, source = _row_of(layout, b, c, d, h, width, block), block[c, at : at + width]
        if step == 1:
            for x in range(width):
                target[x] = source[x]
        else:
            for x in range(width):
                target[x * step] = source[x]


@njit(**OPTIONS)
def _widen(layout, taps, n, size, b, d, row, line, slot):
    """Interpolate one row of a smaller entry along depth and width, into ``slot``, ``[C, W]``."""
    left, right, near, far = taps[0][n], taps[1][n], taps[2][n], taps[3][n]
    step, across = layout[5], size[0] + size[1]
    width = int(right[across + size[2] - 1]) + 1
    padded = line[: width + 2]  # with both ends twice
    for c in range(slot.shape[0]):
        upper = _row_of(layout, b, c, int(left[d]), row, width, line)
        if left[d] == right[d]:
            for x in range(width):
                padded[x + 1] = upper[x * step]
        else:
            lower = _row_of(layout, b, c, int(right[d]), row, width, line)
            for x in range(width):
                padded[x + 1] = near[d] * upper[x * step] + far[d] * lower[x * step]
        padded[0], padded[width + 1] = padded[1], padded[width]
        stretch(padded, left[across:], near[across:], far[across:], slot[c])


@njit(**OPTIONS)
def _narrow(layout, taps, n, size, b, d, row, line, slot):
    """The adjoint of :func:`_widen`, added to the entry's gradient; ``slot`` is zero afterwards."""
    left, right, near, far = taps[0][n], taps[1][n], taps[2][n], taps[3][n]
    step, across = layout[5], size[0] + size[1]
    width = int(right[across + size[2] - 1]) + 1
    for c in range(slot.shape[0]):
        shrink(slot[c], left[across:], right[across:], near[across:], far[across:], line[:width])
        slot[c] = 0
        upper = _row_of(layout, b, c, int(left[d]), row, width, line)
        for x in range(width):
            upper[x * step] += near[d] * line[x]
        if left[d] != right[d]:
            lower = _row_of(layout, b, c, int(right[d]), row, width, line)
            for x in range(width):
                lower[x * step] += far[d] * line[x]


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


# ---- max pooling of some channels, counted through all images


@njit(**OPTIONS)
def _columns(source, b, c, d, h, window, line):
    """The largest element of each column of a row of windows."""
    step = source[5]
    for row in range(window[0] * window[1]):
        values = _row_of(
            source, b, c, d * window[0] + row // window[1], h * window[1] + row % window[1], len(line), line
        )
        if row == 0:
            for x in range(len(line)):
                line[x] = values[x * step]
        elif step == 1:
            for x in range(len(line)):
                value, most = values[x], line[x]
                line[x] = value if value > most or value != value else most
        else:
            for x in range(len(line)):
                value, most = values[x * step], line[x]
                line[x] = value if value > most or value != value else most


@njit(**OPTIONS)
def _windows(source, b, c, d, h, window, line, found):
    """The largest element of each window of a row of them; ``line`` is overwritten."""
    _columns(source, b, c, d, h, window, line)
    width = window[2]
    if width == 2:  # as below, in a form that vector instructions can do
        for x in range(len(found)):
            left, right = line[2 * x], line[2 * x + 1]
            found[x] = right if right > left or right != right else left
    else:
        for x in range(len(found)):
            most = line[x * width]
            for column in range(x * width + 1, (x + 1) * width):
                value = line[column]
                most = value if value > most or value != value else most
            found[x] = most


# ---- entry points: C functions of one argument, so that threads other than Python's can run them
#
# The argument points to a record: numbers, and addresses of arrays. Each thread takes the next item that nobody has
# taken, until none is left, and marks it as done at its end. Items that are done already are left out.
#
# The work on an item is not a function of its own. Numba would put two versions of it into the process that compiles
# and one into the next process, which then computes other last bits.


@cache
def record_of(kind: str, dtype: str) -> np.dtype:
    """The record that entry points of a ``kind`` take; ``dtype`` is what they compute in, float32 or float64."""
    names = ("counter", "items", "done", *_FIELDS[kind])
    return np.dtype([*((name, np.int64) for name in names), ("like", dtype)], align=True)


def signature_of(kind: str, dtype: str) -> types.Type:
    """The C signature of entry points of a ``kind``."""
    return types.void(types.CPointer(from_dtype(record_of(kind, dtype))))


_FIELDS = {
    "mixture": (
        *("boxes", "entries", "channels", "depth", "height", "width", "rows", "layouts", "full"),
        *("left", "right", "near", "far", "query", "eps", "output", "gradients", "query_gradients"),
    ),
    "pooling": (
        *("parts", "channels", "depth", "height", "width", "pooled_depth", "pooled_height", "pooled_width"),
        *("feature", "pooled", "gradient"),
    ),
}
INTEGER, POSITION, FLAG = np.int64(0), np.uint32(0), np.uint8(0)  # for _at


@njit(**OPTIONS)
def _next_item(task, done):
    item = _take_next(task.counter)
    while item < task.items and done[item]:
        item = _take_next(task.counter)
    return item


@njit(**OPTIONS)
def _mixture(task):
    """The arguments that forward and backward share."""
    taps = (task.entries, task.depth + task.height + task.width)
    return (
        carray(_at(task.done, FLAG), (task.items,)),
        carray(_at(task.boxes, INTEGER), (task.items, 5)),
        carray(_at(task.layouts, INTEGER), (task.entries, 6)),
        carray(_at(task.full, FLAG), (task.entries,)),
        (
            carray(_at(task.left, POSITION), taps),
            carray(_at(task.right, POSITION), taps),
            carray(_at(task.near, task.like), taps),
            carray(_at(task.far, task.like), taps),
        ),
        (task.depth, task.height, task.width),
        carray(_at(task.query, task.like), (task.channels,)),
        carray(_at(task.eps, np.float64(0)), (1,))[0],
    )


def mix(pointer):
    """Forward: write the boxes ``(image, first and last slice, first and last row)`` of the output (eq. 8)."""
    task = carray(pointer, (1,))[0]
    done, boxes, layouts, full, taps, size, query, eps = _mixture(task)
    output = carray(_at(task.output, INTEGER), (6,))
    entries, channels, width, height = task.entries, task.channels, task.width, task.rows
    zero, one = query.dtype.type(0), query.dtype.type(1)
    line = np.empty(width + 2, query.dtype)
    slots = np.empty((entries, 2, channels, width), query.dtype)
    held = np.empty((entries, 2), np.int64)
    tile = np.empty((channels, width * height), query.dtype)
    mixed, pixel = np.empty_like(tile), np.empty((6, width * height), query.dtype)
    logit, rstd, largest, total, keep, take = pixel[0], pixel[1], pixel[2], pixel[3], pixel[4], pixel[5]
    item = _next_item(task, done)
    while item < task.items:
        box = boxes[item]
        b, first_slice, last_slice, first_row, last_row = box[0], box[1], box[2], box[3], box[4]
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
                    _write(output, b, d, row, mixed, (row - h) * width, width)
        done[item] = 1
        item = _next_item(task, done)


def differentiate(pointer):
    """Backward: write or add the boxes' parts of all gradients; see ``cpu.backward`` for the equations.

    ``output`` is the gradient of the output.
    """
    task = carray(pointer, (1,))[0]
    done, boxes, layouts, full, taps, size, query, eps = _mixture(task)
    upstream = carray(_at(task.output, INTEGER), (6,))
    all_gradients = carray(_at(task.gradients, INTEGER), (task.items, task.entries, 6))
    query_gradients = carray(_at(task.query_gradients, task.like), (task.items, task.channels))
    entries, channels, width, height = task.entries, task.channels, task.width, task.rows
    share = query.dtype.type(-1) / query.dtype.type(channels)
    line = np.empty(width + 2, query.dtype)
    slots = np.empty((entries, 2, channels, width), query.dtype)
    gradient_slots = np.zeros((entries, 2, channels, width), query.dtype)  # zero again after each slice
    held, gradient_held = np.empty((entries, 2), np.int64), np.empty((entries, 2), np.int64)
    tiles = np.empty((entries, channels, width * height), query.dtype)
    incoming, mean = np.empty_like(tiles[0]), np.empty(width * height, query.dtype)
    logits, weights = np.empty_like(tiles[:, 0]), np.empty((entries + 1, width * height), query.dtype)
    rstds, agreements = np.empty_like(logits), np.empty_like(logits)
    item = _next_item(task, done)
    while item < task.items:
        box = boxes[item]
        b, first_slice, last_slice, first_row, last_row = box[0], box[1], box[2], box[3], box[4]
        gradients, query_gradient = all_gradients[item], query_gradients[item]
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
        done[item] = 1
        item = _next_item(task, done)


@njit(**OPTIONS)
def _pooling(task):
    """The arguments that forward and backward share."""
    size, pooled_size = (
        (task.depth, task.height, task.width),
        (task.pooled_depth, task.pooled_height, task.pooled_width),
    )
    return (
        carray(_at(task.done, FLAG), (task.items,)),
        carray(_at(task.parts, INTEGER), (task.items, 2)),
        carray(_at(task.feature, INTEGER), (6,)),
        carray(_at(task.pooled, INTEGER), (6,)),
        pooled_size,
        (size[0] // pooled_size[0], size[1] // pooled_size[1], size[2] // pooled_size[2]),
        carray(_at(task.done, task.like), (0,)),  # for its type
    )


def pool(pointer):
    """Forward: write planes, first to last, of the pooled tensor."""
    task = carray(pointer, (1,))[0]
    done, parts, feature, pooled, size, window, like = _pooling(task)
    line, found = np.empty(task.width, like.dtype), np.empty(size[2], like.dtype)
    item = _next_item(task, done)
    while item < task.items:
        for plane in range(parts[item, 0], parts[item, 1]):
            b, c = plane // task.channels, plane % task.channels
            for d in range(size[0]):
                for h in range(size[1]):
                    _windows(feature, b, c, d, h, window, line, found)
                    out = _row_of(pooled, b, c, d, h, size[2], like)
                    for x in range(size[2]):
                        out[x * pooled[5]] = found[x]
        done[item] = 1
        item = _next_item(task, done)


def unpool(pointer):
    """Backward: write planes of the gradient: each window's own to the first of its largest elements, 0 to the others.

    ``pooled`` is the gradient of the pooled tensor.
    """
    task = carray(pointer, (1,))[0]
    done, parts, feature, upstream, size, window, like = _pooling(task)
    gradient = carray(_at(task.gradient, INTEGER), (6,))
    line, found = np.empty(task.width, like.dtype), np.empty(size[2], like.dtype)
    left = np.empty(size[2], like.dtype)  # what each window still has to give
    zero = like.dtype.type(0)
    item = _next_item(task, done)
    while item < task.items:
        for plane in range(parts[item, 0], parts[item, 1]):
            b, c = plane // task.channels, plane % task.channels
            for d in range(size[0]):
                for h in range(size[1]):
                    _windows(feature, b, c, d, h, window, line, found)
                    incoming = _row_of(upstream, b, c, d, h, size[2], like)
                    for x in range(size[2]):
                        left[x] = incoming[x * upstream[5]]
                    for row in range(window[0] * window[1]):
                        deep, high = d * window[0] + row // window[1], h * window[1] + row % window[1]
                        values = _row_of(feature, b, c, deep, high, task.width, like)
                        out = _row_of(gradient, b, c, deep, high, task.width, like)
                        if window[2] == 2 and feature[5] == 1 and gradient[5] == 1:
                            for x in range(size[2]):
                                most, grad = found[x], left[x]
                                here = values[2 * x] == most
                                out[2 * x] = grad if here else zero
                                grad = zero if here else grad
                                here = values[2 * x + 1] == most
                                out[2 * x + 1] = grad if here else zero
                                left[x] = zero if here else grad
                        else:
                            for x in range(size[2]):
                                for column in range(x * window[2], (x + 1) * window[2]):
                                    here = values[column * feature[5]] == found[x]
                                    out[column * gradient[5]] = left[x] if here else zero
                                    left[x] = zero if here else left[x]
        done[item] = 1
        item = _next_item(task, done)


ENTRY_POINTS = {mix: "mixture", differentiate: "mixture", pool: "pooling", unpool: "pooling"}
