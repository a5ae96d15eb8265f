import numpy as np
import pytest
from numba import njit

from nnunetv2_xattnres.architectures.numba_math import LOWEST, exponential


@njit
def exponentials(x):
    result = np.empty_like(x)
    for i in range(len(x)):
        result[i] = exponential(x[i])
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_are_right_to_one_unit_in_the_last_place(dtype):
    x = np.concatenate([np.linspace(-87, 0, 100_001), -np.logspace(-12, 1, 10_001)]).astype(dtype)
    want = np.exp(x.astype("longdouble"))
    assert (np.abs(exponentials(x) - want) <= 1.1 * np.spacing(want.astype(dtype))).all()
    assert exponentials(np.zeros(1, dtype))[0] == 1


def test_what_is_no_number_stays_so_and_what_is_too_small_is_next_to_nothing():
    got = exponentials(np.array([np.nan, -np.inf, -1000], np.float32))
    assert np.isnan(got[0])
    assert (got[1:] == exponentials(np.array([LOWEST]))[0]).all() and 0 < got[1] < 2e-38
