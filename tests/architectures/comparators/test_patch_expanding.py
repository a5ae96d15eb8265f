import pytest
import torch
from torch import nn

from nnunetv2_xattnres.architectures.comparators.patch_expanding import PatchExpanding


@pytest.mark.parametrize(("factor", "wanted"), [(2, 3), (4, 6)])
def test_each_pixel_becomes_a_block_of_pixels(factor, wanted):
    torch.manual_seed(0)
    module = PatchExpanding(6, wanted, factor).double()
    nn.init.normal_(module.norm.weight)
    nn.init.normal_(module.norm.bias)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    expected = torch.empty(2, 3 * factor, 4 * factor, wanted, dtype=torch.float64)
    for b in range(2):
        for row in range(3 * factor):
            for column in range(4 * factor):
                source = x[b, row // factor, column // factor]
                first = (row % factor * factor + column % factor) * wanted
                pixel = module.expand.weight[first : first + wanted] @ source
                pixel = (pixel - pixel.mean()) / torch.sqrt(pixel.var(unbiased=False) + module.norm.eps)
                expected[b, row, column] = module.norm.weight * pixel + module.norm.bias
    torch.testing.assert_close(module(x), expected)
