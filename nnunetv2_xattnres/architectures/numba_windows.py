"""The compiled half of ``numba_pool.py``: some channels, counted through all images."""
# ruff: noqa: ANN001, ANN201, ANN202 - Numba functions: the arguments are arrays, and compiled for whatever they are

from __future__ import annotations

import numpy as np

from nnunetv2_xattnres.architectures.numba_compiled import compiled, row_of


@compiled
def _columns(source, b, c, d, h, window, line):
    """The largest element of each column of a row of windows."""
    step = source[5]
    for row in range(window[0] * window[1]):
        values = row_of(
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


@compiled
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


@compiled
def largest(source, target, size, pooled, channels, first, last, like):
    """Write the pooled tensor."""
    window = (size[0] // pooled[0], size[1] // pooled[1], size[2] // pooled[2])
    line, found = np.empty(size[2], like.dtype), np.empty(pooled[2], like.dtype)
    for plane in range(first, last):
        b, c = plane // channels, plane % channels
        for d in range(pooled[0]):
            for h in range(pooled[1]):
                _windows(source, b, c, d, h, window, line, found)
                out = row_of(target, b, c, d, h, pooled[2], like)
                for x in range(pooled[2]):
                    out[x * target[5]] = found[x]


@compiled
def scatter(source, upstream, gradient, size, pooled, channels, first, last, like):
    """Write the gradient: that of each window to the first of its largest elements, 0 to the others."""
    window = (size[0] // pooled[0], size[1] // pooled[1], size[2] // pooled[2])
    line, found = np.empty(size[2], like.dtype), np.empty(pooled[2], like.dtype)
    left = np.empty(pooled[2], like.dtype)  # what each window still has to give
    zero = like.dtype.type(0)
    for plane in range(first, last):
        b, c = plane // channels, plane % channels
        for d in range(pooled[0]):
            for h in range(pooled[1]):
                _windows(source, b, c, d, h, window, line, found)
                incoming = row_of(upstream, b, c, d, h, pooled[2], like)
                for x in range(pooled[2]):
                    left[x] = incoming[x * upstream[5]]
                for row in range(window[0] * window[1]):
                    deep, high = d * window[0] + row // window[1], h * window[1] + row % window[1]
                    values = row_of(source, b, c, deep, high, size[2], like)
                    out = row_of(gradient, b, c, deep, high, size[2], like)
                    if window[2] == 2 and source[5] == 1 and gradient[5] == 1:
                        for x in range(pooled[2]):
                            most, grad = found[x], left[x]
                            here = values[2 * x] == most
                            out[2 * x] = grad if here else zero
                            grad = zero if here else grad
                            here = values[2 * x + 1] == most
                            out[2 * x + 1] = grad if here else zero
                            left[x] = zero if here else grad
                    else:
                        for x in range(pooled[2]):
                            for column in range(x * window[2], (x + 1) * window[2]):
                                here = values[column * source[5]] == found[x]
                                out[column * gradient[5]] = left[x] if here else zero
                                left[x] = zero if here else left[x]
