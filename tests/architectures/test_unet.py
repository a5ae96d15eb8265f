import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnunetv2_xattnres.architectures import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.xattnres import QUERY_INITS, XAttnRes
from nnunetv2_xattnres.catalogue import routings

NETWORKS = {"plain": (XAttnResUNet, PlainConvUNet), "resenc": (XAttnResResidualEncoderUNet, ResidualEncoderUNet)}


def arguments(kind, dims=2, deep_supervision=True):
    common = {
        "input_channels": 2,
        "n_stages": 4,
        "features_per_stage": [4, 8, 12, 12],
        "conv_op": nn.Conv2d if dims == 2 else nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1, 2, 2, 2] if dims == 2 else [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        "num_classes": 3,
        "n_conv_per_stage_decoder": [2, 1, 2],
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": deep_supervision,
    }
    blocks = {"n_conv_per_stage": 2} if kind == "plain" else {"n_blocks_per_stage": [1, 2, 3, 1]}
    return {**common, **blocks}


def build(kind, variant, dims=2, **changes):
    torch.manual_seed(0)
    network = NETWORKS[kind][0](**{**arguments(kind, dims), **changes}, routing=routings()[variant])
    network.apply(network.initialize)
    return network


def sample(dims=2):
    torch.manual_seed(1)
    return torch.randn(2, 2, *((32, 24) if dims == 2 else (8, 24, 16)))


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_baseline_is_the_stock_network_bit_for_bit(kind, dims, deep_supervision):
    ours, stock = NETWORKS[kind]
    torch.manual_seed(0)
    reference = stock(**arguments(kind, dims, deep_supervision))
    network = ours(**arguments(kind, dims, deep_supervision), routing=routings()["baseline"])
    assert list(network.state_dict()) == list(reference.state_dict())
    network.load_state_dict(reference.state_dict())
    got, want = network(sample(dims)), reference(sample(dims))
    for a, b in zip(got if deep_supervision else [got], want if deep_supervision else [want], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("variant", routings())
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_variant(kind, dims, variant):
    network = build(kind, variant, dims)
    x = sample(dims)
    outputs = network(x)
    assert [o.shape[1] for o in outputs] == [3, 3, 3]
    assert outputs[0].shape[2:] == x.shape[2:]
    sum(o.square().mean() for o in outputs).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []

    routing = Routing.parse(routings()[variant])
    instances = [m for m in network.modules() if isinstance(m, XAttnRes)]
    assert len(instances) == 4 * routing.encoder + 3 * routing.decoder
    assert not any(m.query.any() for m in instances if m.projections)

    twin = build(kind, variant, dims)
    twin.load_state_dict(network.state_dict())
    network.decoder.deep_supervision = twin.decoder.deep_supervision = False
    assert torch.equal(network(x), twin(x))
    network.zero_grad()
    network(x).square().mean().backward()  # training on several GPUs needs all gradients
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    with pytest.raises((ValueError, RuntimeError), match=r"multiples of \[[48](, 8)+\]|must match"):  # a stock block's
        network(x[..., 1:])

    stock = NETWORKS[kind][1](**arguments(kind, dims)).state_dict()
    shared = {k: v for k, v in network.state_dict().items() if "_xattnres." not in k}
    assert set(shared) == set(stock)
    if routing.skip_connections:
        assert all(shared[k].shape == stock[k].shape for k in shared)


@pytest.mark.parametrize("kind", NETWORKS)
def test_decoder_stages_without_skip_connections_keep_the_networks_blocks(kind):
    network = build(kind, "replace")
    stock = build(kind, "both")
    for ours, theirs in zip(network.decoder.stages, stock.decoder.stages, strict=True):
        assert len(ours.convs) == len(theirs.convs)
        assert ours.convs[0].conv.in_channels * 2 == theirs.convs[0].conv.in_channels
        assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]


@pytest.mark.parametrize("query_init", QUERY_INITS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_initialize_leaves_the_queries_as_they_were(kind, query_init):
    torch.manual_seed(0)
    network = NETWORKS[kind][0](**arguments(kind), routing={"query_init": query_init})
    queries = {k: v.clone() for k, v in network.state_dict().items() if k.endswith("query")}
    assert len(queries) == 6
    assert all(bool(v.any()) == (query_init != "zero") for v in queries.values())
    network.apply(network.initialize)
    for key, before in queries.items():
        assert torch.equal(network.state_dict()[key], before)


def test_the_history_of_each_stage_is_what_the_equations_say(monkeypatch):
    network = build("plain", "both")
    seen = []
    original = XAttnRes.forward
    monkeypatch.setattr(
        XAttnRes, "forward", lambda self, h, x: seen.append([tuple(e.shape[1:]) for e in h]) or original(self, h, x)
    )
    network(sample())
    e = [(4, 32, 24), (8, 16, 12), (12, 8, 6), (12, 4, 3)]
    d = [(12, 8, 6), (8, 16, 12)]
    assert seen == [e[:0], e[:1], e[:2], e[:3], e, e + d[:1], e + d[:2]]


def test_missing_routing_is_both_and_missing_keys_take_its_values():
    assert Routing.parse(None) == Routing.parse({}) == Routing.parse(routings()["both"])
    assert Routing.parse({"skip_connections": False}) == Routing.parse(routings()["replace"])


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ({"skip": False}, "skip.*skip_connections, encoder, decoder, query_init"),
        ({"query_init": "ones"}, "ones.*zero, random, kaiming_uniform, xavier_uniform"),
        ({"encoder": "yes"}, "encoder.*yes.*true and false"),
    ],
)
def test_unknown_routing_names_the_valid_one(routing, message):
    with pytest.raises(ValueError, match=message):
        XAttnResUNet(**arguments("plain"), routing=routing)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_feature_map_size_counts_what_xattnres_keeps(kind, dims):
    size = (32, 32) if dims == 2 else (16, 32, 32)
    stock = NETWORKS[kind][1](**arguments(kind, dims)).compute_conv_feature_map_size(size)
    counts = {v: build(kind, v, dims).compute_conv_feature_map_size(size) for v in routings()}
    assert counts["baseline"] == counts["noskip"] == stock
    assert stock < counts["encoder"] < counts["both"] == counts["replace"]
    assert counts["both"] - stock == counts["encoder"] - stock + counts["decoder"] - stock


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["both", "replace"])
def test_compiles_without_graph_breaks(variant):
    """In the default form, with and without skip connections; test_compile.py has every routing."""
    network = build("plain", variant)
    x = sample()
    expected = network(x)
    outputs = torch.compile(network, fullgraph=True, backend="aot_eager")(x)
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    sum(o.square().mean() for o in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.slow
def test_compiles_with_inductor():
    # a C++ compiler takes seconds for each kernel: two stages have those of all readers
    network = build("plain", "both", n_stages=2, features_per_stage=[4, 8], strides=[1, 2],
                    n_conv_per_stage_decoder=1, n_conv_per_stage=1)  # fmt: skip
    x = sample()
    expected = network(x)
    outputs = torch.compile(network, fullgraph=True)(x)
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_half_precision_step_under_a_gradient_scaler(kind):
    """nnU-Net's training step: autocast, scaled loss, unscaled and clipped gradients."""
    network, x = build(kind, "both"), sample()
    optimizer, scaler = torch.optim.SGD(network.parameters(), lr=0.01), torch.amp.GradScaler("cpu", init_scale=128.0)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = sum(nn.functional.cross_entropy(o, torch.zeros_like(o[:, 0], dtype=torch.long)) for o in network(x))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12, error_if_nonfinite=True)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 128
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name for name in before if name.endswith("query")} <= moved


def test_gradients_survive_activation_checkpointing():
    network, x = build("plain", "both"), sample()
    gradients = []
    for forward in (network, lambda x: checkpoint(network, x, use_reentrant=False)):
        network.zero_grad()
        sum(output.square().mean() for output in forward(x)).backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_the_inference_graph_exports(dims):
    network, x = build("plain", "both", dims, deep_supervision=False).eval(), sample(dims)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


@pytest.mark.slow
def test_two_processes_train_in_step_under_ddp(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parent / "ddp_step.py"
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**environment, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert set(first) == {f"{kind} {variant}" for kind in NETWORKS for variant in routings()}
    for name in first:
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
