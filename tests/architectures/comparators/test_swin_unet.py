import math

import pytest
import torch
import torch.nn.functional as F
from comparator_checks import ComparatorChecks
from torch import nn

from nnunetv2_xattnres.architectures.comparators import SwinUNet
from nnunetv2_xattnres.architectures.comparators.swin_unet import SwinUNetDecoder, _swin_blocks


class TestSwinUNet(ComparatorChecks):
    network = SwinUNet
    parameters = 27_168_132
    outputs = 1


def layer_norm(module, x):
    x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + module.eps)
    return module.weight * x + module.bias


def attend(block, x, shift):
    """Shifted windows of 7x7 pixel by pixel: cyclic shift, padding with zeros, attention within each window.

    Pixels of a window see one another where they are in the same of the nine regions of the padded map.
    """
    attention = block.attn
    heads, width = attention.num_heads, x.shape[-1]
    size = width // heads
    height, length = x.shape[:2]
    padded = [math.ceil(n / 7) * 7 for n in (height, length)]

    def region(position, extent):
        return 0 if not shift or position < extent - 7 else 1 if position < extent - shift else 2

    weight, bias = attention.qkv.weight.view(3, heads, size, width), attention.qkv.bias.view(3, heads, size)
    out = torch.zeros_like(x)
    for top in range(0, padded[0], 7):
        for left in range(0, padded[1], 7):
            places = [(top + i, left + j) for i in range(7) for j in range(7)]
            sources = [((r + shift) % height, (c + shift) % length) for r, c in places]
            tokens = torch.stack([
                x[source] if r < height and c < length else torch.zeros(width, dtype=x.dtype)
                for (r, c), source in zip(places, sources, strict=True)
            ])  # fmt: skip
            query, key, value = torch.einsum("thsw,nw->thns", weight, tokens) + bias[:, :, None]
            for n, (r, c) in enumerate(places):
                if r >= height or c >= length:
                    continue
                mixed = []
                for head in range(heads):
                    scores = []
                    for m, (other_r, other_c) in enumerate(places):
                        offset = (r - other_r + 6) * 13 + c - other_c + 6
                        score = query[head, n] @ key[head, m] / math.sqrt(size)
                        score = score + attention.relative_position_bias_table[offset, head]
                        same = region(r, padded[0]) == region(other_r, padded[0])
                        same = same and region(c, padded[1]) == region(other_c, padded[1])
                        scores.append(score if same else score - 100)
                    mixed.append(torch.softmax(torch.stack(scores), 0) @ value[head])
                out[sources[n]] = attention.proj.weight @ torch.cat(mixed) + attention.proj.bias
    return out


@pytest.mark.parametrize("size", [(7, 14), (5, 6), (8, 10)])
def test_shifted_windows_written_out(size):
    torch.manual_seed(0)
    stage = _swin_blocks([6])[0].double().eval()
    for parameter in stage.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, *size, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = x[0]
        for block, shift in zip(stage.blocks, (0, 3), strict=True):
            expected = expected + attend(block, layer_norm(block.norm1, expected), shift)
            hidden = layer_norm(block.norm2, expected) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
            expected = expected + F.gelu(hidden) @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
        torch.testing.assert_close(stage(x)[0], expected)


def test_decoder_written_out():
    torch.manual_seed(0)
    decoder = SwinUNetDecoder((12, 24, 48, 96), 3, False).eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    f1, f2, f3, f4 = (torch.randn(2, 16 // 2**i, 24 // 2**i, 12 * 2**i) for i in range(4))
    with torch.no_grad():
        x = layer_norm(decoder.bottleneck_norm, f4)
        for level, (skip, width, heads) in enumerate(((f3, 48, 12), (f2, 24, 6), (f1, 12, 3))):
            x = torch.cat([decoder.expand[level](x), skip], 3)
            x = x @ decoder.fuse[level].weight.T + decoder.fuse[level].bias
            assert x.shape == (2, *skip.shape[1:3], width)
            for block in decoder.stages[level].blocks:
                assert block.attn.num_heads == heads
                x = block(x)
        x = decoder.expand_last(layer_norm(decoder.norm, x))
        expected = torch.einsum("kc,bhwc->bkhw", decoder.seg_layers[0].weight[:, :, 0, 0], x)
        assert expected.shape == (2, 3, 64, 96)
        torch.testing.assert_close(decoder([f1, f2, f3, f4]), expected, rtol=1e-4, atol=1e-4)


def test_depths_and_stochastic_depth_mirror_the_encoder():
    with torch.device("meta"):
        network = SwinUNet(3, 1)

    def rates(blocks):
        return [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]

    encoder = [rates(network.encoder[f"layers_{i}"].blocks) for i in range(4)]
    assert [len(stage) for stage in encoder] == [2, 2, 2, 2] and encoder[3][1] == pytest.approx(0.1)
    assert [rates(stage.blocks) for stage in network.decoder.stages] == encoder[2::-1]
