import pytest
import torch
from comparator_checks import ComparatorChecks, FormChecks

from nnunetv2_xattnres.architectures.comparators import PVTCascade

SMALL = {"encoder": "pvt_v2_b0"}


class TestPVTCascade(ComparatorChecks):
    network = PVTCascade
    parameters = 34_120_783
    small = SMALL
    outputs = 4
    sums_outputs = True


class TestConcatenating(FormChecks):
    network = PVTCascade
    parameters = 35_272_783
    counted = {"fusion": "concatenate"}  # noqa: RUF012
    small = {**SMALL, "fusion": "concatenate"}  # noqa: RUF012
    outputs = 4


@pytest.mark.parametrize("fusion", ["add", "concatenate"])
def test_the_decoder_written_out(fusion):
    torch.manual_seed(0)
    decoder = PVTCascade(3, 2, fusion=fusion, **SMALL).eval().decoder
    one, two, three, four = features = [
        torch.rand(1, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate((32, 64, 160, 256))
    ]

    def attend(level, x):
        weigh = decoder.channels[level].weigh
        x = x * torch.sigmoid(weigh(x.mean((2, 3), keepdim=True)) + weigh(x.amax((2, 3), keepdim=True)))
        x = x * torch.sigmoid(decoder.spatial.weigh(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))
        return decoder.stages[level](x)

    def join(level, x, skip):
        x = decoder.up[level - 1](x)
        gated = decoder.gates[level - 1](x, skip)
        return torch.cat([gated, x], 1) if fusion == "concatenate" else gated + x

    x4 = attend(0, decoder.bottom(four))
    x3 = attend(1, join(1, x4, three))
    x2 = attend(2, join(2, x3, two))
    x1 = attend(3, join(3, x2, one))
    expected = [decoder.seg_layers[3 - i](x) for i, x in enumerate((x1, x2, x3, x4))]
    torch.testing.assert_close(decoder(features), expected)


def test_an_unknown_fusion():
    with pytest.raises(ValueError, match="add, concatenate"):
        PVTCascade(3, 1, fusion="mean", **SMALL)
