import numpy as np
import pytest
import torch
from numba import njit
from torch.nn.functional import interpolate

from nnunetv2_xattnres.architectures.kernels.cpu import _taps
from nnunetv2_xattnres.architectures.kernels.cpu_compiled import LOWEST, exponential, shrink, stretch


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("width", "wide"), [(4, 4), (5, 10), (1, 2), (5, 20), (1, 4), (3, 18), (4, 32), (1, 8), (2, 64), (5, 15), (5, 7)]
)
def test_rows_are_interpolated_as_by_torch_and_gradients_come_back_as_by_autograd(width, wide, dtype):
    rng = np.random.default_rng(0)
    left, right, near, far = (table[0, 2:] for table in _taps(((1, 1, width), (1, 1, wide)), dtype))
    row, gradient = rng.normal(size=width).astype(dtype), rng.normal(size=wide).astype(dtype)
    source = torch.from_numpy(row).requires_grad_()
    want = interpolate(source[None, None], wide, mode="linear")[0, 0]
    (want_gradient,) = torch.autograd.grad(want, source, torch.from_numpy(gradient))

    got, got_gradient = np.full(wide, np.nan, dtype), np.full(width, np.nan, dtype)
    stretch(np.pad(row, 1, mode="edge"), left, near, far, got)
    shrink(gradient, left, right, near, far, got_gradient)
    torch.testing.assert_close(torch.from_numpy(got), want.detach())
    torch.testing.assert_close(torch.from_numpy(got_gradient), want_gradient)
