import pytest
import torch
from comparator_checks import ComparatorChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import UCTransNet, uctransnet
from nnunetv2_xattnres.architectures.comparators.uctransnet import (
    ChannelAttentionHeads,
    ChannelCrossAttention,
    ChannelTransformer,
    CrossAttentionDecoder,
)


class TestUCTransNet(ComparatorChecks):
    network = UCTransNet
    parameters = 66_488_257


def test_parameters_at_224():
    with torch.device("meta"):
        network = UCTransNet(3, 1, image_size=(224, 224))
    assert sum(parameter.numel() for parameter in network.parameters()) == 66_488_257 - (256 - 196) * 960


@pytest.fixture
def narrow(monkeypatch):
    """The transformer on 3, 4, 5 and 6 channels."""
    monkeypatch.setattr(uctransnet, "WIDTHS", (3, 4, 5, 6))


def test_channel_attention_head_by_head(narrow):
    torch.manual_seed(0)
    attention = ChannelAttentionHeads().double().eval()
    levels = [torch.randn(1, 7, width).double() for width in (3, 4, 5, 6)]
    everything = torch.cat(levels, 2)
    for level, (tokens, ours) in enumerate(zip(levels, attention(levels, everything), strict=True)):
        width, heads = tokens.shape[2], []
        for head in range(4):
            q = tokens[0] @ attention.queries[level].weight[head * width : (head + 1) * width].T
            k, v = (everything[0] @ m.weight[head * 18 : (head + 1) * 18].T for m in (attention.key, attention.value))
            scores = torch.empty(width, 18).double()
            for i in range(width):
                for j in range(18):
                    scores[i, j] = sum(q[n, i] * k[n, j] for n in range(7)) / 18**0.5
            scores = (scores - scores.mean()) / (scores.var(unbiased=False) + 1e-5).sqrt()
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            heads.append(weights @ v.T)
        expected = (sum(heads) / 4).T @ attention.out[level].weight.T
        torch.testing.assert_close(ours[0], expected)


def test_positions_are_interpolated_and_levels_share_a_grid(narrow):
    torch.manual_seed(0)
    transformer = ChannelTransformer((2, 2)).eval()
    for position in transformer.positions:
        torch.nn.init.normal_(position)
    transformer.layers = torch.nn.ModuleList()  # what is left: patches, positions, norms, the way back
    features = [torch.randn(1, width, 64 // 2**i, 48 // 2**i) for i, width in enumerate((3, 4, 5, 6))]
    for level, (feature, ours) in enumerate(zip(features, transformer(features), strict=True)):
        tokens = transformer.embed[level](feature)
        assert tokens.shape[2:] == (4, 3)
        tokens = tokens + F.interpolate(transformer.positions[level], (4, 3), mode="bilinear")
        normed = F.layer_norm(tokens.movedim(1, 3), tokens.shape[1:2], eps=1e-6).movedim(3, 1)
        large = normed.repeat_interleave(16 // 2**level, 2).repeat_interleave(16 // 2**level, 3)
        torch.testing.assert_close(ours, feature + transformer.restore[level][1](large), rtol=1e-4, atol=1e-5)


def test_channel_cross_attention_channel_by_channel():
    torch.manual_seed(0)
    attention = ChannelCrossAttention(3, 4).double()
    g, x = torch.randn(1, 3, 2, 5).double(), torch.randn(1, 4, 2, 5).double()
    ours = attention(g, x)
    for channel in range(4):
        of_g = attention.signal.weight[channel] @ g[0].mean((1, 2)) + attention.signal.bias[channel]
        of_x = attention.skip.weight[channel] @ x[0].mean((1, 2)) + attention.skip.bias[channel]
        expected = (x[0, channel] / (1 + torch.exp(-(of_g + of_x) / 2))).clamp_min(0)
        torch.testing.assert_close(ours[0, channel], expected)


def test_the_decoder_written_out():
    torch.manual_seed(0)
    decoder = CrossAttentionDecoder(2, False).eval()
    skips = [torch.rand(1, width, 16 // 2**i, 32 // 2**i) for i, width in enumerate((64, 128, 256, 512))]
    x = deepest = torch.rand(1, 512, 1, 2)
    for level in range(4):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = decoder.stages[level](torch.cat([decoder.attention[level](x, skips[3 - level]), x], 1))
    torch.testing.assert_close(decoder(skips, deepest), decoder.seg_layers[0](x))
