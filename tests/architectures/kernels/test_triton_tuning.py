"""What tuning the Triton kernels leaves behind, without a GPU."""

import os
from importlib.util import find_spec

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not tuned"),
    pytest.mark.skipif(os.environ.get("XATTNRES_OLDEST") == "1", reason="Triton 3.2 looks for a GPU before it tunes"),
]


@pytest.mark.parametrize("name", ["_gradient_kernel", "_narrow_kernel"])
def test_the_sums_of_tiles_that_were_tried_are_forgotten(name):
    from nnunetv2_xattnres.architectures.kernels import triton_kernels

    tuned = triton_kernels._tuned(getattr(triton_kernels, name), 32, True)
    partial = torch.ones(3)
    # Triton calls it before each tile that it tries, and once more before the one that it chose
    tuned.pre_hook({"partial_ptr": partial}, reset_only=True)
    assert not partial.any()
