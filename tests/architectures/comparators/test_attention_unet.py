import torch
from comparator_checks import ComparatorChecks

from nnunetv2_xattnres.architectures.blocks import AttentionGate
from nnunetv2_xattnres.architectures.comparators import AttentionUNet


class TestAttentionUNet(ComparatorChecks):
    network = AttentionUNet
    parameters = 34_878_573


def test_a_gate_pixel_by_pixel():
    torch.manual_seed(0)
    gate = AttentionGate(3, 4, 2).double().eval()
    for norm in (gate.signal[1], gate.skip[1], gate.weigh[1]):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    g, x = torch.randn(1, 3, 2, 3).double(), torch.randn(1, 4, 2, 3).double()

    def affine(layers, vector):
        conv, norm = layers[0], layers[1]
        value = conv.weight[:, :, 0, 0] @ vector + conv.bias
        return (value - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias

    expected = torch.empty_like(x)
    for row in range(2):
        for column in range(3):
            meeting = affine(gate.signal, g[0, :, row, column]) + affine(gate.skip, x[0, :, row, column])
            coefficient = torch.sigmoid(affine(gate.weigh, meeting.clamp_min(0)))
            expected[0, :, row, column] = coefficient * x[0, :, row, column]
    torch.testing.assert_close(gate(g, x), expected)


def test_each_level_reads_the_gated_map_first():
    network = AttentionUNet(3, 1).eval()
    features = network.encoder(torch.rand(1, 3, 32, 32))
    decoder = network.decoder
    x = features[-1]
    for level in range(4):
        x = decoder.up[level](x)
        skip = features[3 - level]
        x = decoder.stages[level](torch.cat([decoder.gates[level](x, skip), x], 1))
    torch.testing.assert_close(decoder(features), decoder.seg_layers[0](x))
