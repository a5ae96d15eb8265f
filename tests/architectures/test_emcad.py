import pytest
import torch
from backbone_checks import BackboneChecks
from torch import nn

from nnunetv2_xattnres.architectures import EMCADNet
from nnunetv2_xattnres.architectures.dry_run import dry_run
from nnunetv2_xattnres.architectures.emcad_decoder import MultiScaleConv
from nnunetv2_xattnres.catalogue import routings
from nnunetv2_xattnres.encoders import PVT


class TestEMCADNet(BackboneChecks):
    network = EMCADNet
    kwargs = {"encoder": "pvt_v2_b0"}  # noqa: RUF012
    outputs = 4
    routings = ("baseline", "noskip", "both", "replace")  # see test_encoder_positions_do_not_exist


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_table_2():
    with torch.device("meta"):
        network = EMCADNet(3, 1, routing=routings()["baseline"])
        one_channel = EMCADNet(1, 1, routing=routings()["baseline"])
    assert count(network.encoder) == 24_849_856
    assert count(network.decoder) == 1_913_515
    assert count(network.heads) == 1_028
    assert round(count(network) / 1e6, 2) == 26.76
    assert count(one_channel) - count(network) == count(one_channel.stem) == 12


@pytest.mark.parametrize("encoder", PVT)
def test_every_encoder_builds(encoder):
    with torch.device("meta"):
        network = EMCADNet(3, 4, encoder=encoder)
    assert dry_run(network, (1, 3, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize("routing", ["baseline", "noskip", "both", "replace"])
def test_decoder_written_out(routing):
    torch.manual_seed(0)
    routing = routings()[routing]
    network = EMCADNet(3, 1, encoder="pvt_v2_b0", routing={**routing, "query_init": "random"}).eval()
    decoder = network.decoder
    decoder.deep_supervision = True
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    features = network.encoder(torch.rand(2, 3, 64, 96))

    pool = list(features)
    d = features[-1]
    expected = []
    for level in range(4):
        if level > 0:
            d = decoder.up[level - 1](d)
            if routing["decoder"]:
                d = decoder.xattnres[level - 1](list(pool), d)
            if routing["skip_connections"]:
                gate, skip = decoder.gates[level - 1], features[3 - level]
                d = d + skip * gate.weigh(gate.gate(d) + gate.skip(skip))
        channel = decoder.channel[level].weigh
        pooled = [d.mean((2, 3), keepdim=True), d.amax((2, 3), keepdim=True)]
        d = d * torch.sigmoid(channel(pooled[0]) + channel(pooled[1]))
        d = d * torch.sigmoid(decoder.spatial.weigh(torch.cat([d.mean(1, True), d.amax(1, True)], 1)))
        block = decoder.multi_scale[level]
        wide = block.expand(d)
        shuffled = nn.ChannelShuffle(d.shape[1])(sum(scale(wide) for scale in block.scales))
        d = d + block.reduce(shuffled)
        pool.append(d)
        expected.insert(0, d)
    for ours, reference in zip(decoder(features), expected, strict=True):
        torch.testing.assert_close(ours, reference)


def test_encoder_positions_do_not_exist():
    def keys(name):
        return list(EMCADNet(3, 1, encoder="pvt_v2_b0", routing=routings()[name]).state_dict())

    assert keys("encoder") == keys("noskip")
    assert keys("decoder") == keys("replace")


def test_every_parameter_has_a_gradient_without_deep_supervision():
    network = EMCADNet(3, 2, encoder="pvt_v2_b0").train()
    network(torch.rand(1, 3, 32, 64)).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert float(network.heads.seg_layers[3].weight.grad.abs().max()) == 0


def test_depthwise_kernels_are_1_3_5():
    kernels = [scale[0].kernel_size for scale in MultiScaleConv(8).scales]
    assert kernels == [(1, 1), (3, 3), (5, 5)]


def test_imagenet_normalisation_is_inside():
    torch.manual_seed(0)
    inside = EMCADNet(3, 1, encoder="pvt_v2_b0", input_normalization="imagenet").eval()
    outside = EMCADNet(3, 1, encoder="pvt_v2_b0").eval()
    outside.load_state_dict(inside.state_dict())
    x = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(inside(x), outside((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"encoder": "resnet50"}, "pvt_v2_b0, pvt_v2_b1"),
        ({"input_normalization": "ct"}, "imagenet or null"),
    ],
)
def test_unknown_names(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EMCADNet(3, 1, **kwargs)
    with pytest.raises(ValueError, match="3 RGB channels"):
        EMCADNet(1, 1, input_normalization="imagenet")


def test_constructor_never_loads_weights():
    network = EMCADNet(3, 1, encoder="pvt_v2_b0", encoder_weights="nowhere.pth")
    assert network.encoder_weights == "nowhere.pth"
