import pytest
import torch
from comparator_checks import ComparatorChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import MTUNet
from nnunetv2_xattnres.architectures.comparators.mt_unet import (
    AxialAttention,
    ExternalAttention,
    LocalGlobalAttention,
    MTUNetDecoder,
    WindowAttention,
    to_windows,
)


class TestMTUNet(ComparatorChecks):
    network = MTUNet
    parameters = 75_268_139


def test_parameters_of_the_release():
    with torch.device("meta"):
        network = MTUNet(3, 9)
    count = sum(parameter.numel() for parameter in network.parameters())
    # 3,806,720 in output projections that are never called, and ten biases that a softmax cancels
    assert count == 79_075_389 - 3_806_720 - 10


def test_which_pixel_is_in_which_window():
    x = torch.arange(2 * 6 * 9 * 3.0).view(2, 6, 9, 3)
    windows, real = to_windows(x)
    assert windows.shape == (2, 2, 3, 16, 3) and real.shape == (2, 3, 16)
    for row in range(8):
        for column in range(12):
            place = row // 4, column // 4, row % 4 * 4 + column % 4
            inside = row < 6 and column < 9
            assert bool(real[place]) == inside
            expected = x[:, row, column] if inside else torch.zeros(2, 3)
            assert torch.equal(windows[:, place[0], place[1], place[2]], expected)


def test_attention_within_a_window_sees_the_real_pixels_only():
    torch.manual_seed(0)
    attention = WindowAttention(16).double()
    windows, real = to_windows(torch.randn(1, 3, 5, 16).double())
    ours = attention(windows, real)
    for row, column in ((0, 0), (0, 1)):
        pixels = windows[0, row, column][real[row, column]]
        assert len(pixels) == (12 if column == 0 else 3)
        q, k, v = attention.query(pixels), attention.key(pixels), attention.value(pixels)
        mixed = torch.empty_like(pixels)
        for head in range(8):
            part = slice(2 * head, 2 * head + 2)
            for i in range(len(pixels)):
                weights = torch.stack([q[i, part] @ k[j, part] / 2**0.5 for j in range(len(pixels))]).exp()
                mixed[i, part] = (weights / weights.sum()) @ v[:, part]
        torch.testing.assert_close(ours[0, row, column][real[row, column]], attention.out(mixed))


def test_axial_attention_window_by_window():
    torch.manual_seed(0)
    attention = AxialAttention(4).double()
    torch.nn.init.constant_(attention.shift, -0.3)  # its absolute value counts
    x = torch.randn(1, 3, 5, 4).double()
    q, k, v = attention.query(x)[0], attention.key(x)[0], attention.value(x)[0]
    expected = torch.zeros(3, 5, 4).double()
    for row in range(3):
        for column in range(5):
            for line, place in (([(row, j) for j in range(5)], column), ([(i, column) for i in range(3)], row)):
                scores = [q[row, column] @ k[at] - 0.3 * (n - place) ** 2 for n, at in enumerate(line)]
                weights = torch.stack(scores).exp()
                for weight, at in zip(weights / weights.sum(), line, strict=True):
                    expected[row, column] += weight * v[at]
    torch.testing.assert_close(attention(x)[0], expected)


def test_external_attention_is_normalised_twice():
    torch.manual_seed(0)
    attention = ExternalAttention(8).double()
    x = torch.randn(1, 5, 8).double()
    wide = attention.expand(x)[0].unflatten(1, (32, 1))
    mixed = torch.empty(5, 32).double()
    for head in range(32):
        scores = attention.keys(wide[:, head]).exp()
        weights = scores / scores.sum(0)  # over the tokens
        for token in range(5):
            slots = weights[token] / weights[token].sum()  # over the slots
            mixed[token, head : head + 1] = attention.values(slots)
    torch.testing.assert_close(attention(x)[0], attention.reduce(mixed))


@pytest.mark.parametrize("size", [(8, 4), (6, 9)])
def test_local_and_global_attention_written_out(size):
    torch.manual_seed(0)
    attention = LocalGlobalAttention(8)
    x = torch.randn(1, *size, 8)
    windows, real = to_windows(x)
    windows = attention.local(windows, real)
    rows, columns = real.shape[:2]
    tokens, near = torch.empty(1, rows, columns, 8), torch.empty(1, 8, 4 * rows, 4 * columns)
    for row in range(rows):
        for column in range(columns):
            pixels, there = windows[0, row, column], real[row, column]
            weights = attention.weigh(pixels[there].mean(0))[there].softmax(0)
            tokens[0, row, column] = weights @ pixels[there]
            near[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = pixels.T.view(8, 4, 4)
    tokens = attention.across(tokens).movedim(3, 1)
    far = F.interpolate(tokens, scale_factor=4, mode="bilinear", align_corners=True)
    expected = attention.join(torch.cat([far, near], 1))[:, :, : size[0], : size[1]]
    torch.testing.assert_close(attention(x), expected.movedim(1, 3), rtol=1e-4, atol=1e-5)


def test_padding_does_not_leak():
    """What the pixels beyond the map hold does not matter: the right half of a map that ends in a window."""
    torch.manual_seed(0)
    attention = LocalGlobalAttention(8).eval()
    x = torch.randn(1, 5, 6, 8)
    windows, real = to_windows(x)
    loud = torch.where(real.unsqueeze(3), windows, 1e3)
    torch.testing.assert_close(
        attention.local(loud, real)[:, real], attention.local(windows, real)[:, real], rtol=1e-4, atol=1e-5
    )


def test_the_decoder_written_out():
    torch.manual_seed(0)
    decoder = MTUNetDecoder(2, False).eval()
    one, two, four, eight, sixteen, x = skips = [
        torch.rand(1, width, 32 // 2**i, 64 // 2**i) for i, width in enumerate((64, 128, 256, 256, 512, 1024))
    ]
    x = decoder.join(torch.cat([decoder.up[0](x), sixteen], 1))
    x = decoder.modules_16(x)
    x = decoder.modules_8(torch.cat([decoder.up[1](x), eight], 1))
    x = decoder.stages[0](torch.cat([four, decoder.up[2](x)], 1))
    x = decoder.stages[1](torch.cat([two, decoder.up[3](x)], 1))
    x = decoder.stages[2](torch.cat([one, decoder.up[4](x)], 1))
    torch.testing.assert_close(decoder(skips), decoder.seg_layers[0](x))
