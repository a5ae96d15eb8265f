import pytest
import torch
from comparator_checks import ComparatorChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import MISSFormer
from nnunetv2_xattnres.architectures.comparators.missformer import (
    BridgeLayer,
    EfficientAttention,
    EnhancedFeedForward,
    TransformerDecoder,
    to_maps,
    to_tokens,
)


class TestMISSFormer(ComparatorChecks):
    network = MISSFormer
    parameters = 35_452_225


@pytest.mark.parametrize("reduction", [1, 2])
def test_efficient_attention_query_by_query(reduction):
    torch.manual_seed(0)
    attention = EfficientAttention(6, 2, reduction).double()
    x = torch.randn(1, 4, 6, 6).double()
    reduced = x
    if reduction == 2:
        pooled = torch.zeros(1, 2, 3, 6).double()
        for row in range(2):
            for column in range(3):
                value = attention.reduce.conv.bias.clone()
                for i in range(2):
                    for j in range(2):
                        value = value + attention.reduce.conv.weight[:, :, i, j] @ x[0, 2 * row + i, 2 * column + j]
                pooled[0, row, column] = value
        reduced = F.layer_norm(pooled, (6,))
    keys, values = attention.key_value(reduced[0].flatten(0, 1)).chunk(2, 1)
    expected = torch.empty_like(x)
    for row in range(4):
        for column in range(6):
            query = attention.query(x[0, row, column])
            heads = []
            for head in (slice(0, 3), slice(3, 6)):
                weights = torch.stack([query[head] @ key[head] / 3**0.5 for key in keys]).exp()
                heads.append(sum(w * value[head] for w, value in zip(weights / weights.sum(), values, strict=True)))
            expected[0, row, column] = attention.out(torch.cat(heads))
    torch.testing.assert_close(attention(x), expected)


def test_the_enhanced_feed_forward_pixel_by_pixel():
    torch.manual_seed(0)
    feed = EnhancedFeedForward(2).double()
    x = torch.randn(1, 3, 4, 2).double()
    wide = feed.expand(x)[0]
    expected = torch.empty_like(x)
    for row in range(3):
        for column in range(4):
            around = feed.depthwise.bias.clone()
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    if 0 <= row + i < 3 and 0 <= column + j < 4:
                        around = around + feed.depthwise.weight[:, 0, i + 1, j + 1] * wide[row + i, column + j]
            normed = F.layer_norm(wide[row, column] + around, (8,))
            expected[0, row, column] = feed.reduce(F.gelu(normed))
    torch.testing.assert_close(feed(x), expected)


def test_which_pixel_becomes_which_tokens():
    shapes = [torch.Size((2, 4, 3, 64)), torch.Size((2, 2, 2, 128)), torch.Size((2, 1, 2, 320))]
    maps = [torch.randn(shape) for shape in shapes]
    tokens = to_tokens(maps)
    assert tokens.shape == (2, 12 + 8 + 10, 64)
    assert torch.equal(tokens[1, 5], maps[0][1, 1, 2])  # row 1, column 2 of three columns
    # the pixel in row 1, column 0 of the second map is the third one there, of two tokens each
    assert torch.equal(tokens[0, 12 + 4], maps[1][0, 1, 0, :64])
    assert torch.equal(tokens[0, 12 + 5], maps[1][0, 1, 0, 64:])
    assert torch.equal(tokens[1, 20 + 5 :].flatten(), maps[2][1, 0, 1])
    for back, before in zip(to_maps(tokens, shapes), maps, strict=True):
        assert torch.equal(back, before)


def test_a_bridge_layer_written_out():
    torch.manual_seed(0)
    layer = BridgeLayer()
    maps = [torch.randn(1, 16 // 2**i, 8 // 2**i, width) for i, width in enumerate((64, 128, 320, 512))]
    tokens = to_tokens(maps)
    normed = to_maps(F.layer_norm(tokens, (64,)), [x.shape for x in maps])
    sources = []
    for level, (x, factor) in enumerate(zip(normed, (8, 4, 2, 1), strict=True)):
        x = layer.reduce[level](x.movedim(3, 1)).movedim(1, 3)
        assert x.shape[1:3] == (2, 1) and factor * 2 == maps[level].shape[1]
        sources.append(x)
    keys, values = layer.key_value(F.layer_norm(to_tokens(sources), (64,))).chunk(2, 2)
    scores = layer.query(F.layer_norm(tokens, (64,))) @ keys.transpose(1, 2) / 8
    tokens = tokens + layer.out(scores.softmax(2) @ values)
    normed = to_maps(F.layer_norm(tokens, (64,)), [x.shape for x in maps])
    tokens = tokens + to_tokens([feed(x) for feed, x in zip(layer.feeds, normed, strict=True)])
    torch.testing.assert_close(to_tokens(layer(maps)), tokens, rtol=1e-4, atol=1e-5)


def test_the_decoder_written_out():
    torch.manual_seed(0)
    decoder = TransformerDecoder(2, False)
    maps = [torch.randn(1, 16 // 2**i, 8 // 2**i, width) for i, width in enumerate((64, 128, 320, 512))]
    x = maps[3]
    for step in range(3):
        joined = torch.cat([decoder.expand[step](x), maps[2 - step]], 3)
        x = decoder.blocks[step](decoder.join[step](joined))
    logits = decoder(maps)
    assert logits.shape == (1, 2, 64, 32)
    torch.testing.assert_close(logits, decoder.seg_layers[0](decoder.last(x).movedim(3, 1)))
