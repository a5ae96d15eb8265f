import pytest
import torch
from comparator_checks import ComparatorChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import PolypPVT
from nnunetv2_xattnres.architectures.comparators.polyp_pvt import PolypDecoder, SimilarityAggregation


class TestPolypPVT(ComparatorChecks):
    network = PolypPVT
    parameters = 25_107_604
    small = {"encoder": "pvt_v2_b0"}  # noqa: RUF012
    outputs = 2
    sums_outputs = True


@pytest.mark.parametrize("size", [(12, 18), (4, 7)])
def test_similarity_aggregation_node_by_node(size):
    torch.manual_seed(0)
    module = SimilarityAggregation().double()
    fused, details = torch.randn(2, 1, 32, *size).double()
    height, width = size

    def point(conv, x):
        bias = 0 if conv.bias is None else conv.bias[:, None]
        return conv.weight.flatten(1) @ x + bias

    pixels = fused[0].flatten(1)
    state, projected = point(module.state, pixels), point(module.project, pixels)
    edge = (details[0, 1].exp() / details[0].exp().sum(0)).flatten()
    weighted = (projected * edge).unflatten(1, size)
    anchors = []
    for i in range(1, 5):  # the border of the 6x6 grid is dropped
        for j in range(1, 5):
            rows = slice(i * height // 6, -((-(i + 1) * height) // 6))
            columns = slice(j * width // 6, -((-(j + 1) * width) // 6))
            anchors.append(weighted[:, rows, columns].mean((1, 2)))
    scores = torch.stack([torch.stack([anchor @ projected[:, n] for n in range(height * width)]) for anchor in anchors])
    assigned = scores.exp() / scores.exp().sum(0)
    nodes = torch.stack([sum(assigned[k, n] * state[:, n] for n in range(height * width)) for k in range(16)], 1)
    mixed = torch.stack(
        [sum(module.across_nodes.weight[k, j, 0] * nodes[:, j] for j in range(16)) for k in range(16)], 1
    )
    mixed = mixed + module.across_nodes.bias - nodes
    nodes = point(module.across_states, mixed).clamp_min(0)
    expected = fused[0] + point(module.expand, nodes @ assigned).unflatten(1, size)
    torch.testing.assert_close(module(fused, details)[0], expected)


def test_the_decoder_written_out():
    torch.manual_seed(0)
    decoder = PolypDecoder([8, 10, 12, 14], 2).eval()
    one, two, three, four = features = [
        torch.rand(1, width, 32 // 2**i, 16 // 2**i) for i, width in enumerate((8, 10, 12, 14))
    ]
    two, three, four = (reduce(x) for reduce, x in zip(decoder.reduce, (two, three, four), strict=True))
    fused = decoder.fuse(decoder.partial(four, three, two))
    details = F.interpolate(decoder.identify(one), scale_factor=0.5, mode="bilinear", align_corners=True)
    expected = [decoder.seg_layers[0](decoder.aggregate(fused, details)), decoder.seg_layers[1](fused)]
    torch.testing.assert_close(decoder(features), expected)
