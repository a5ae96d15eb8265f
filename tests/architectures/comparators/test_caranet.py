import pytest
import torch
from comparator_checks import ComparatorChecks
from shallow_encoders import shallow_res2net
from torch import nn
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import CaraNet
from nnunetv2_xattnres.architectures.comparators.caranet import (
    AxialAttention,
    CaraNetDecoder,
    FeatureChain,
    FeaturePyramid,
)


class TestCaraNet(ComparatorChecks):
    network = CaraNet
    parameters = 44_593_560
    shallow = staticmethod(shallow_res2net)
    outputs = 4


@pytest.mark.parametrize("axis", [2, 3])
def test_axial_attention_pixel_by_pixel(axis):
    torch.manual_seed(0)
    attention = AxialAttention(axis).double()
    nn.init.constant_(attention.scale, 0.7)
    x = torch.randn(1, 32, 3, 5).double()
    q, k, v = (
        torch.einsum("oi,bihw->bohw", m.weight[..., 0, 0], x)[0]
        for m in (attention.query, attention.key, attention.value)
    )
    expected = x.clone()
    for row in range(3):
        for column in range(5):
            line = [(r, column) for r in range(3)] if axis == 2 else [(row, c) for c in range(5)]
            for r, c in line:
                weight = torch.sigmoid(q[:, row, column] @ k[:, r, c])
                expected[0, :, row, column] += 0.7 * weight * v[:, r, c]
    torch.testing.assert_close(attention(x), expected)


def test_the_running_sums_of_the_pyramid():
    torch.manual_seed(0)
    pyramid = FeaturePyramid().eval()
    x = torch.randn(1, 32, 8, 6)
    reduced = pyramid.reduce(pyramid.before(x))
    one, two, three, four = (branch(reduced) for branch in pyramid.branches)
    joined = torch.cat([one, one + two, one + two + three, one + two + three + four], 1)
    torch.testing.assert_close(pyramid(x), x + pyramid.join(pyramid.after(joined)))
    dilations = [branch.steps[0][0].dilation[0] for branch in pyramid.branches]
    assert dilations == [1, 3, 5, 9]


def test_a_chain_keeps_what_each_step_gives():
    chain = FeatureChain(8, 3).eval()
    x = torch.rand(1, 8, 5, 5)
    a = chain.steps[0](x)
    b = chain.steps[1](a)
    c = chain.steps[2](b)
    assert [part.shape[1] for part in (a, b, c)] == [2, 2, 4]
    torch.testing.assert_close(chain(x), torch.cat([a, b, c], 1))


def test_each_map_refines_the_one_below_it():
    torch.manual_seed(0)
    decoder = CaraNetDecoder([6, 10, 14], 1, regions=False).eval()
    for refine in decoder.refinements:
        nn.init.constant_(refine.height.scale, 0.5)
        nn.init.constant_(refine.width.scale, 0.5)
    features = [torch.rand(1, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate((6, 10, 14))]
    reduced = [reduce(feature) for reduce, feature in zip(decoder.reduce, features, strict=True)]
    logits = decoder.seg_layers[0](decoder.smooth(decoder.partial(reduced[2], reduced[1], reduced[0])))
    expected = [logits]
    for level in (2, 1, 0):
        logits = F.interpolate(logits, reduced[level].shape[2:], mode="bilinear")
        refine = decoder.refinements[level]
        seen = refine.around(refine.point(decoder.pyramids[level](reduced[level])))
        seen = refine.width(refine.height(seen)) * (1 - torch.sigmoid(logits))
        logits = refine.seg_layers(refine.look(seen)) + logits
        expected.insert(0, logits)
    torch.testing.assert_close(decoder(features), expected)
