"""The exponential function of compiled code, in single precision in a form that vector instructions can do."""
# ruff: noqa: ANN001, ANN202 - Numba functions: the arguments are numbers, and compiled for whatever they are

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from nnunetv2_xattnres.architectures.numba_compiled import OPTIONS

LOWEST = np.float32(-87)  # below, single precision has no normal number
LOG2_E = np.float32(1.44269504)
LN_2 = np.float32(0.693359375), np.float32(-2.12194440e-4)  # a sum, so that its products are exact
# e^r = 1 + r + r^2 P(r) for |r| <= ln 2 / 2, to about one unit in the last place
P = tuple(map(np.float32, (1.98756915e-4, 1.39819995e-3, 8.33345192e-3, 4.16657959e-2, 1.66666655e-1, 5.00000012e-1)))


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
