"""``torch.compile`` gets through every network and variant in one graph, with the form that a GPU uses.

On a CPU that form computes in plain torch, behind the same operators.
"""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_xattnres import catalogue
from nnunetv2_xattnres.architectures import (
    EMCADNet,
    PaperUNet,
    XAttnRes,
    XAttnResResidualEncoderUNet,
    XAttnResUNet,
    use_kernel,
)


def _unet(network, dims, **blocks):
    def build(routing):
        return network(
            input_channels=3, n_stages=3, features_per_stage=[2, 4, 6], conv_op=nn.Conv2d if dims == 2 else nn.Conv3d,
            kernel_sizes=3, strides=[1, 2, 2], num_classes=2, n_conv_per_stage_decoder=1, deep_supervision=True,
            norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU, routing=routing, **blocks,
        )  # fmt: skip

    return build, (2, 3, *[8] * dims)


# name: the network of a routing, and the shape of its input
NETWORKS = {
    "unet 2d": _unet(XAttnResUNet, 2, n_conv_per_stage=1),
    "unet 3d": _unet(XAttnResUNet, 3, n_conv_per_stage=1),
    "resenc 2d": _unet(XAttnResResidualEncoderUNet, 2, n_blocks_per_stage=1),
    "resenc 3d": _unet(XAttnResResidualEncoderUNet, 3, n_blocks_per_stage=1),
    "paper-unet": (lambda routing: PaperUNet(3, 2, routing=routing, deep_supervision=True), (2, 3, 32, 32)),
    "emcad": (
        lambda routing: EMCADNet(3, 2, encoder="pvt_v2_b0", routing=routing, deep_supervision=True),
        (2, 3, 32, 32),
    ),
}


def _variants(network):
    """Those of the catalogue; initialisations compile alike."""
    return [key for key in catalogue.NETWORKS[network.split()[0]].variants if key in catalogue.routings()]


CASES = [(network, variant) for network in NETWORKS for variant in _variants(network)]


@pytest.fixture(autouse=True)
def form_of_a_gpu():
    with use_kernel("cuda"):
        yield


def build(network, variant):
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    return make(catalogue.VARIANTS[variant].routing), torch.rand(shape)


class Pyramid(nn.Module):
    """Four features at strides 4 to 32, in place of EMCAD's encoder: of its tracing, once is enough."""

    def __init__(self, widths):
        super().__init__()
        sizes = zip([3, *widths], widths, [4, 2, 2, 2], strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(before, width, size, size) for before, width, size in sizes)

    def forward(self, x):
        features = [x]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


def readers_of(network):
    return sum(isinstance(module, XAttnRes) and bool(module.projections) for module in network.modules())


@pytest.mark.parametrize(
    ("training", "network", "variant"),
    # without gradients, a variant without readers is an ordinary network
    [
        (training, network, variant)
        for training in (True, False)
        for network, variant in CASES
        if training or catalogue.reads(catalogue.VARIANTS[variant])
    ],
)
def test_every_network_and_variant_is_one_graph(training, network, variant):
    stand_in = network == "emcad" and variant != "both"
    network, x = build(network, variant)
    if stand_in:
        network.encoder = Pyramid(network.encoder.feature_info.channels())
    network.train(training)
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    with torch.set_grad_enabled(training):
        outputs = torch.compile(network, fullgraph=True, backend=backend)(x)
        torch.testing.assert_close(outputs, network(x))
    (graph,) = graphs
    assert sum("xattnres.read" in target for target in graph) == readers_of(network)
    assert not any("autocast" in target for target in graph)
    if training:
        sum(output.square().mean() for output in outputs).backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


class Pooled(TorchDispatchMode):
    """Counts poolings of history entries."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.xattnres.max_pool_cuda.default
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("network", [network for network in NETWORKS if network != "emcad"])  # half a minute for timm's
def test_the_backward_pass_is_one_graph_with_one_operator_per_reader(network):
    network, x = build(network, "both")
    network.train()
    backwards, pooled = [], []

    def backend(graph, inputs):
        def count(part, _):
            backwards.append(sum("mix_cuda_backward" in str(node.target) for node in part.graph.nodes))
            pooled.append(sum("max_pool_cuda." in str(node.target) for node in part.graph.nodes))
            return part.forward

        return torch._dynamo.backends.common.aot_autograd(fw_compiler=count, bw_compiler=count)(graph, inputs)

    outputs = torch.compile(network, fullgraph=True, backend=backend)(x)
    sum(output.square().mean() for output in outputs).backward()
    assert backwards == [0, readers_of(network)]
    with Pooled() as eager:
        network(x)
    assert pooled == [eager.count, 0]  # readers share what is pooled
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
