import numpy as np
import pytest
import torch
from routed_networks import trained, unet
from torch import nn

from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.routing_maps.knock_out import dice_by_class, knocked_out


@pytest.fixture
def reader():
    torch.manual_seed(0)
    module = XAttnRes([4, 6], 6, nn.Conv2d)
    nn.init.normal_(module.query)
    history = [torch.rand(2, 4, 16, 16), torch.rand(2, 6, 4, 4)]
    return module, history, torch.rand(2, 6, 8, 8)


def aligned(module, history, x):
    first = module.projections[0](nn.functional.max_pool2d(history[0], 2))
    return [first, nn.functional.interpolate(history[1], (8, 8), mode="bilinear"), x]


def test_all_but_one_left_out_is_that_entry(reader):
    module, history, x = reader
    for index, entry in enumerate(aligned(module, history, x)):
        others = {0, 1, 2} - {index}
        assert torch.allclose(module.mix_without(others, history, x), entry, atol=1e-5)


def test_the_others_keep_their_proportions(reader):
    module, history, x = reader
    weights, entries = module.routing_weights(history, x), aligned(module, history, x)
    rest = weights[:, 1:] / weights[:, 1:].sum(1, keepdim=True)
    expected = rest[:, :1] * entries[1] + rest[:, 1:] * entries[2]
    assert torch.allclose(module.mix_without([0], history, x), expected, atol=1e-5)
    assert torch.allclose(module.mix_without([], history, x), module(history, x), atol=1e-5)


def test_an_entry_whose_weight_is_0_changes_nothing(reader):
    module, history, x = reader
    with torch.no_grad():  # logits of at least -200 and 200: the softmax is 0 and 1
        module.query.fill_(100.0)
        history[1] = -history[1] - 1
    assert module.routing_weights(history, x)[:, 1].max() == 0
    assert torch.equal(module.mix_without([1], history, x), module.mix_without([], history, x))


@pytest.mark.parametrize("left_out", [{0, 1, 2}, {3}, {-1}])
def test_what_cannot_be_left_out(reader, left_out):
    module, history, x = reader
    with pytest.raises(ValueError, match="cannot be left out of 3"):
        module.mix_without(left_out, history, x)


def test_the_network_is_changed_only_inside_and_only_by_an_entry_with_weight():
    network, x = trained(unet(2)), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        before = network(x)
        with knocked_out(network, "decoder_xattnres.1", [0]):
            inside = network(x)
        after = network(x)
        with knocked_out(network, "decoder_xattnres.1", []):
            nothing = network(x)
    assert torch.equal(before, after)
    assert (before - inside).abs().max() > 1e-4
    assert torch.allclose(before, nothing, atol=1e-5)


def test_dice_of_classes_and_regions():
    labels = Labels({"whole": (1, 2), "core": (2,), "other": (4,)}, frozenset({0, 1, 2, 3, 4}), ignore=3)
    reference = np.array([[1, 2, 0, 3]])
    prediction = np.array([[1, 1, 1, 1]])
    dice = dice_by_class(reference, prediction, labels)
    assert dice[:2] == pytest.approx([2 * 2 / 5, 0])
    assert np.isnan(dice[2])
