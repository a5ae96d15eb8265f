import torch
from comparator_checks import ComparatorChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import UNetPlusPlus


class TestUNetPlusPlus(ComparatorChecks):
    network = UNetPlusPlus
    parameters = 9_163_428
    outputs = 4


def test_the_nodes_written_out():
    torch.manual_seed(0)
    network = UNetPlusPlus(2, 3, deep_supervision=True).eval()
    decoder = network.decoder
    image = torch.rand(1, 2, 32, 48)

    node = {}
    for j in range(5):
        for i in range(5 - j):
            if j == 0:
                read = image if i == 0 else F.max_pool2d(node[i - 1, 0], 2)
            else:
                up = F.interpolate(node[i + 1, j - 1], scale_factor=2, mode="bilinear", align_corners=True)
                read = torch.cat([*(node[i, before] for before in range(j)), up], 1)
            node[i, j] = decoder.nodes[i][j](read)
    expected = [decoder.seg_layers[j - 1](node[0, j]) for j in (4, 3, 2, 1)]
    torch.testing.assert_close(decoder(image), expected)
