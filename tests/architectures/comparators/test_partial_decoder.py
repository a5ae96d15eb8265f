import pytest
import torch
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators.partial_decoder import (
    PartialDecoder,
    ReceptiveFieldBlock,
    not_found_yet,
)


def test_a_receptive_field_block_written_out():
    torch.manual_seed(0)
    block = ReceptiveFieldBlock(5).double().eval()
    x = torch.randn(1, 5, 9, 8).double()

    def convolve(x, layers, dilation=1):
        """The convolution of a pair of layers pixel by pixel; batch normalisation is as it starts."""
        weight = layers[0].weight
        (_, height, width), (out, _, rows, columns) = x.shape, weight.shape
        result = torch.zeros(out, height, width).double()
        for r in range(height):
            for c in range(width):
                for i in range(rows):
                    for j in range(columns):
                        at = r + dilation * (i - rows // 2), c + dilation * (j - columns // 2)
                        if 0 <= at[0] < height and 0 <= at[1] < width:
                            result[:, r, c] += weight[:, :, i, j] @ x[:, at[0], at[1]]
        return result / (1 + layers[1].eps) ** 0.5

    branches = [convolve(x[0], block.branches[0])]
    for branch, size in zip(block.branches[1:], (3, 5, 7), strict=True):
        assert branch[1][0].kernel_size == (1, size) and branch[2][0].kernel_size == (size, 1)
        y = convolve(convolve(convolve(x[0], branch[0]), branch[1]), branch[2])
        branches.append(convolve(y, branch[3], dilation=size))
    expected = (convolve(torch.cat(branches), block.join) + convolve(x[0], block.shortcut)).clamp_min(0)
    torch.testing.assert_close(block(x)[0], expected)


def test_the_partial_decoder_written_out():
    torch.manual_seed(0)
    decoder = PartialDecoder().eval()
    a, b, c = (torch.rand(1, 32, size, 2 * size) for size in (2, 4, 8))

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    b1 = decoder.b_from_a(up(a)) * b
    c1 = decoder.c_from_a(up(up(a))) * decoder.c_from_b(up(b)) * c
    b2 = decoder.join_b(torch.cat([b1, decoder.b_beside_a(up(a))], 1))
    c2 = decoder.join_c(torch.cat([c1, decoder.c_beside_b(up(b2))], 1))
    torch.testing.assert_close(decoder(a, b, c), c2)


@pytest.mark.parametrize(("classes", "regions"), [(1, False), (1, True), (2, False), (4, False), (3, True)])
def test_what_is_not_found_yet_pixel_by_pixel(classes, regions):
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, classes, 3, 2).double()
    found = not_found_yet(logits, regions)
    assert found.shape == (2, 1, 3, 2)
    for image in range(2):
        for row in range(3):
            for column in range(2):
                values = logits[image, :, row, column]
                if classes == 1 or regions:
                    expected = 1 - max(1 / (1 + torch.exp(-value)) for value in values)
                else:
                    expected = torch.exp(values[0]) / sum(torch.exp(value) for value in values)
                torch.testing.assert_close(found[image, 0, row, column], expected)


def test_two_classes_mean_the_same_as_one_logit():
    # softmax over background and foreground is the sigmoid of their difference
    logits = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(not_found_yet(logits, False), not_found_yet(logits[:, 1:] - logits[:, :1], False))
