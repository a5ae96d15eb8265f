"""Linear interpolation of one row, compiled, and its adjoint.

Where the target is twice, four times, six times ... as long as the source, its pixels between two source pixels are the
same everywhere, which allows forms without a table of positions, and so vector instructions.
"""
# ruff: noqa: ANN001, ANN201 - Numba functions: the arguments are arrays, and compiled for whatever they are

from __future__ import annotations

from nnunetv2_xattnres.architectures.numba_compiled import compiled


@compiled
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


@compiled
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
