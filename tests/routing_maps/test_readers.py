from itertools import pairwise

import pytest
import torch
from routed_networks import NETWORKS, OwnNetwork, trained, unet
from torch import nn

from nnunetv2_xattnres.architectures import EMCADNet
from nnunetv2_xattnres.architectures.readers import find_readers, read_routing, watched
from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.routing_maps.knock_out import knocked_out


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_and_entries_of_every_network(name):
    make, shape, stages = NETWORKS[name]
    readers = find_readers(make().eval(), torch.rand(shape))
    assert [reader.stage for reader in readers] == stages
    # what a stage makes is an entry of the stages behind it, under the same name
    for before, after in pairwise(readers):
        assert after.entries[:-1] == (*before.entries[:-1], before.stage)
        assert after.entries[-1] == "current"


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_uniform_before_training_and_sum_to_1_after_it(name):
    make, shape, _ = NETWORKS[name]
    network, x = make().eval(), torch.rand(shape)
    for stage in read_routing(network, x):
        assert stage.weights.shape == (shape[0], len(stage.entries), *stage.size)
        assert torch.allclose(stage.weights, torch.full_like(stage.weights, 1 / len(stage.entries)))
    for stage in read_routing(trained(network), x):
        assert torch.allclose(stage.weights.sum(1), torch.ones(shape[0], *stage.size))
        if stage.stage.startswith("decoder"):  # PaperUNet's encoder 2 has one entry, which equals its current feature
            assert stage.weights.std() > 1e-3


def test_weights_are_those_of_routing_weights():
    network, x = trained(unet(2)), torch.rand(2, 1, 16, 16)
    kept = {}

    def keep(module, inputs):
        kept["weights"] = module.routing_weights(*inputs)

    with torch.no_grad():
        network.decoder_xattnres[1].register_forward_pre_hook(keep)
        (stage,) = read_routing(network, x, ["decoder 2"])
    assert (stage.weights - kept["weights"]).abs().max() < 1e-6


def test_deep_supervision_changes_no_name():
    x = torch.rand(1, 3, 64, 64)
    plain, deep = (
        find_readers(EMCADNet(3, 2, encoder="pvt_v2_b0", deep_supervision=deep).eval(), x) for deep in (False, True)
    )
    assert plain == deep


def test_a_network_of_ones_own():
    network = trained(OwnNetwork())
    (stage,) = read_routing(network, torch.rand(1, 1, 8, 8))
    assert stage.entries == ("stages 1", "stages 2", "entry 3", "current")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_two_readers_of_one_stage_are_told_apart():
    class Twice(OwnNetwork):
        def __init__(self):
            super().__init__()
            self.again = XAttnRes([4], 4, nn.Conv2d)

        def forward(self, x):
            first = self.stages[0](x)
            second = self.stages[1](first)
            self.again([first], second)  # called twice, listed once
            return self.again([first], second) + self.mix([first, second, first], second)

    readers = find_readers(Twice().eval(), torch.rand(1, 1, 8, 8))
    assert [reader.module for reader in readers] == ["again", "mix"]
    assert len({reader.stage for reader in readers}) == 2


def test_wrappers_are_seen_through():
    network, x = unet(2).eval(), torch.rand(1, 1, 16, 16)
    assert find_readers(nn.DataParallel(network), x) == find_readers(network, x)


def test_a_network_around_the_network_is_part_of_it():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = trained(unet(2))  # as data-parallel training calls it

        def forward(self, x):
            return self.module(x / 100 - 1)

    network, x = Scaled().eval(), torch.rand(1, 1, 16, 16) * 255
    for stage, expected in zip(read_routing(network, x), read_routing(network.module, x / 100 - 1), strict=True):
        assert torch.equal(stage.weights, expected.weights)


def test_readers_may_be_called_with_names():
    class Named(OwnNetwork):
        def forward(self, x):
            first = self.stages[0](x)
            second = self.stages[1](first)
            return self.mix(history=[first, second, first], x=second)

    network, x = trained(Named()), torch.rand(1, 1, 8, 8)
    (stage,) = read_routing(network, x)
    assert stage.entries == ("stages 1", "stages 2", "stages 3", "current")
    seen = []
    with watched(network, [stage.module], lambda path, weights: seen.append(weights)):
        network(x)
    assert torch.equal(seen[0].detach(), stage.weights)
    whole = network(x)
    with knocked_out(network, stage.module, [0]):
        assert not torch.allclose(network(x), whole)


def test_strides_follow_the_entries_and_the_decoders_current_feature_is_as_coarse_as_what_it_came_from():
    readers = {reader.stage: reader for reader in find_readers(unet(2).eval(), torch.rand(1, 1, 16, 16))}
    assert readers["encoder 3"].strides == (1, 2, 4)
    assert readers["decoder 2"].strides == (1, 2, 4, 2, 2)


def test_a_network_without_xattnres_says_so_in_one_line():
    baseline = unet(2, routing={"encoder": False, "decoder": False})
    for network in (baseline, nn.Conv2d(1, 1, 1), nn.Sequential(XAttnRes([], 1, nn.Conv2d))):
        with pytest.raises(InputError, match=r"^This network has no XAttnRes .*no routing weights[^\n]*$"):
            find_readers(network, torch.rand(1, 1, 16, 16))


def test_an_unknown_stage_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="no stage decoder 9: its stages are encoder 2, encoder 3, decoder 1, dec"):
        read_routing(unet(2).eval(), torch.rand(1, 1, 16, 16), ["decoder 9"])
