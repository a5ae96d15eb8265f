"""A network with ``stock_start`` begins as the network without XAttnRes, and its gate at 1 is the paper's XAttnRes."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunetv2_xattnres.architectures import EMCADNet, PaperUNet, XAttnRes
from nnunetv2_xattnres.architectures.comparators import UNet3Plus
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.catalogue import VARIANTS

sys.path.append(str(Path(__file__).parents[1] / "architectures"))

from test_unet import NETWORKS, arguments, sample

STOCK_START = VARIANTS["stock_start"].routing


def started(kind, dims, routing=STOCK_START):
    """The stock network, and ours with its weights."""
    ours, stock = NETWORKS[kind]
    torch.manual_seed(0)
    reference = stock(**arguments(kind, dims))
    network = ours(**arguments(kind, dims), routing=routing)
    missing = network.load_state_dict(reference.state_dict(), strict=False)
    assert missing.unexpected_keys == [] and all("_xattnres." in key for key in missing.missing_keys)
    return reference, network


def randomise(network):
    """Give queries and scales values that a training could give them."""
    for module in network.modules():
        if isinstance(module, XAttnRes) and module.projections:
            nn.init.normal_(module.query)
            nn.init.uniform_(module.norm_weight, 0.5, 1.5)


@pytest.mark.parametrize("places", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_first_outputs_are_the_stock_networks(kind, dims, places):
    encoder, decoder = places
    reference, network = started(kind, dims, {**STOCK_START, "encoder": encoder, "decoder": decoder})
    randomise(network)
    x = sample(dims)
    with torch.no_grad():
        for got, want in zip(network(x), reference(x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        assert (network(x)[0] - started(kind, dims, VARIANTS["both"].routing)[1](x)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_gate_of_one_is_the_papers_xattnres(kind, dims):
    _, network = started(kind, dims)
    randomise(network)
    paper = NETWORKS[kind][0](**arguments(kind, dims), routing=VARIANTS["both"].routing)
    state = network.state_dict()
    gates = [key for key in state if key.endswith(".gate")]
    assert len(gates) == 6 and [key for key in state if key not in paper.state_dict()] == gates
    paper.load_state_dict({key: value for key, value in state.items() if key not in gates})
    for key in gates:
        state[key].fill_(1)
    x = sample(dims)
    with torch.no_grad():
        for got, want in zip(network(x), paper(x), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_of_xattnres_learns_after_the_first_step(kind):
    _, network = started(kind, 2)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.9)
    own = {key: value for key, value in network.named_parameters() if "_xattnres." in key}
    silent = []
    for _ in range(3):
        optimizer.zero_grad()
        sum((output - 1).square().mean() for output in network(sample())).backward()
        assert all(value.grad is not None for value in network.parameters())
        silent.append({key for key, value in own.items() if not value.grad.any()})
        optimizer.step()
    # the gate alone in the first step; the scale is multiplied by the query, which is 0 for one step more
    assert silent[0] == {key for key in own if not key.endswith(".gate")}
    assert silent[1] == {key for key in own if key.endswith(".norm_weight")}
    assert silent[2] == set()


def test_the_weights_that_are_shown_are_those_of_the_output():
    stage = XAttnRes([6, 8], 8, nn.Conv2d, query_init="random", gated=True)
    history, x = [torch.randn(2, 6, 8, 8), torch.randn(2, 8, 4, 4)], torch.randn(2, 8, 8, 8)
    current = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    torch.testing.assert_close(stage.routing_weights(history, x), current)
    assert torch.equal(stage.mix_without([0], history, x), x)
    stage.gate.data.fill_(1)
    softmax = stage.routing_weights(history, x)
    stage.gate.data.fill_(0.25)
    torch.testing.assert_close(stage.routing_weights(history, x), 0.75 * current + 0.25 * softmax)
    torch.testing.assert_close(stage.mix_without([], history, x), stage(history, x))


def test_it_takes_no_precision_from_small_floats():
    stage = XAttnRes([8], 8, nn.Conv2d, query_init="random", gated=True)
    x = (1000 * torch.randn(1, 8, 64, 64)).half()
    history = [(1000 * torch.randn(1, 8, 64, 64)).half()]
    assert torch.equal(stage(history, x), x)
    stage(history, x).backward(torch.full_like(x, 60000))  # a sum in float16 would be infinite
    assert stage.gate.grad.isfinite() and stage.gate.grad != 0


def test_networks_without_the_key_have_no_gate():
    assert not any(key.endswith(".gate") for key in PaperUNet(3, 1).state_dict())
    assert XAttnRes([], 8, nn.Conv2d, gated=True).state_dict() == {}


def test_it_compiles_as_one_graph():
    stage = XAttnRes([6, 8], 8, nn.Conv2d, query_init="random", gated=True)
    stage.gate.data.fill_(0.5)
    history, x = [torch.randn(2, 6, 8, 8), torch.randn(2, 8, 4, 4)], torch.randn(2, 8, 8, 8)
    compiled = torch.compile(stage, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(history, x), stage(history, x))


@pytest.mark.parametrize("make", [PaperUNet, lambda *a, **k: EMCADNet(*a, encoder="pvt_v2_b0", **k)])
def test_other_networks_begin_as_their_baseline(make):
    torch.manual_seed(0)
    baseline = make(3, 2, routing=VARIANTS["baseline"].routing).eval()
    network = make(3, 2, routing=STOCK_START).eval()
    network.load_state_dict(baseline.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), baseline(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["replace", "noskip", "encoder", "decoder", "baseline"])
def test_a_routing_without_such_a_start_is_named(variant):
    with pytest.raises(ValueError, match="cannot have stock_start: the stock network has skip connections"):
        Routing.parse({**VARIANTS[variant].routing, "stock_start": True})


def test_a_fusion_has_no_such_start():
    with pytest.raises(ValueError, match="cannot have stock_start"):
        UNet3Plus(3, 1, routing={"skip_connections": False, "decoder": True, "stock_start": True})
    with pytest.raises(ValueError, match="no stock_start"):
        UNet3Plus(3, 1, routing={"skip_connections": True, "encoder": True, "decoder": False, "stock_start": True})
