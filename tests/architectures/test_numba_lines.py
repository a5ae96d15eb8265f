import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from nnunetv2_xattnres.architectures.numba_kernel import _taps
from nnunetv2_xattnres.architectures.numba_lines import shrink, stretch


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
