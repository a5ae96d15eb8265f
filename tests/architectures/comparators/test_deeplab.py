import pytest
import torch
from comparator_checks import ComparatorChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import DeepLabV3Plus
from nnunetv2_xattnres.architectures.comparators.deeplab import AtrousPyramid


class TestDeepLabV3Plus(ComparatorChecks):
    network = DeepLabV3Plus
    parameters = 39_756_705


def test_the_encoder_has_output_stride_16():
    network = DeepLabV3Plus(3, 1).eval()
    low, deep = network.encoder(torch.rand(1, 3, 64, 96))
    assert low.shape == (1, 256, 16, 24) and deep.shape == (1, 2048, 4, 6)


def test_the_pyramid_pixel_by_pixel():
    torch.manual_seed(0)
    pyramid = AtrousPyramid(5).double().eval()
    x = torch.randn(1, 5, 4, 3).double()

    def normed(branch, value):  # batch normalisation as it starts: mean 0, variance 1
        return (value / (1 + branch[1].eps) ** 0.5).clamp_min(0)

    branches = []
    for branch, rate in zip((pyramid.point, *pyramid.dilated), (0, 6, 12, 18), strict=True):
        out = torch.zeros(256, 4, 3).double()
        taps = branch[0].weight.shape[2]
        for row in range(4):
            for column in range(3):
                for i in range(taps):
                    for j in range(taps):
                        r, c = row + rate * (i - taps // 2), column + rate * (j - taps // 2)
                        if 0 <= r < 4 and 0 <= c < 3:
                            out[:, row, column] += branch[0].weight[:, :, i, j] @ x[0, :, r, c]
        branches.append(normed(branch, out))
    mean = pyramid.pooled[0].weight[:, :, 0, 0] @ x[0].mean((1, 2))
    branches.append(normed(pyramid.pooled, mean)[:, None, None].expand(-1, 4, 3))
    joined = F.conv2d(torch.cat(branches)[None], pyramid.join[0][0].weight)
    torch.testing.assert_close(pyramid(x), normed(pyramid.join[0], joined))


@pytest.mark.parametrize("batch", [1, 2])
def test_the_pooled_branch_is_normalised_where_it_can_be(batch):
    pyramid = AtrousPyramid(4).train()
    before = pyramid.pooled[1].running_mean.clone()
    pyramid(torch.rand(batch, 4, 3, 3))
    assert torch.equal(pyramid.pooled[1].running_mean, before) == (batch == 1)
