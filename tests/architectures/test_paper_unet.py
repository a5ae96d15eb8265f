import pytest
import torch
from backbone_checks import BackboneChecks
from torch import nn
from torch.nn import functional as F

from nnunetv2_xattnres import catalogue
from nnunetv2_xattnres.architectures import PaperUNet


class TestPaperUNet(BackboneChecks):
    network = PaperUNet
    outputs = 1
    routings = tuple(catalogue.routings())

    def test_parameters_of_table_2(self):
        count = sum(p.numel() for p in PaperUNet(3, 1, routing=catalogue.routings()["baseline"]).parameters())
        assert round(count / 1e6, 2) == 1.06
        assert count == 1_062_361


@pytest.mark.parametrize("routing", catalogue.routings())
def test_equations_10_and_11_written_out(routing):
    torch.manual_seed(0)
    routing = catalogue.routings()[routing]
    network = PaperUNet(3, 1, routing={**routing, "query_init": "random"}).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    x = torch.rand(2, 3, 64, 48)

    history = []
    e = None
    for i, stage in enumerate(network.encoder.stages):
        down = x if i == 0 else F.max_pool2d(e, 2)
        if routing["encoder"] and i > 0:
            down = network.encoder.xattnres[i - 1](list(history), down)
        e = stage(down)
        history.append(e)
    d = e
    for j, stage in enumerate(network.decoder.stages):
        u = F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=True)
        if routing["decoder"]:
            u = network.decoder.xattnres[j](list(history), u)
        if routing["skip_connections"]:
            u = torch.cat([u, history[3 - j]], 1)
        d = stage(u)
        history.append(d)
    torch.testing.assert_close(network(x), network.decoder.seg_layers[0](d))


def test_widths_of_the_layout():
    network = PaperUNet(3, 1)
    x = torch.rand(1, 3, 64, 64)
    shapes = []
    for stage in [*network.encoder.stages, *network.decoder.stages]:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:3])))
    network(x)
    encoder = [(18, 64), (36, 32), (72, 16), (144, 8), (144, 4)]
    assert shapes == [*encoder, (72, 8), (36, 16), (18, 32), (18, 64)]
