"""``torch.compile`` over images of many sizes: no more graphs than for nnU-Net's own network.

The default form runs, as for users. Every size is small: above 20480 values, PyTorch's own convolutions on a CPU ask
for a graph more. EMCAD is left out: tracing its encoder takes minutes.
"""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch._dynamo.testing import CompileCounter

from nnunetv2_xattnres.architectures import PaperUNet, XAttnResUNet

SIZES = {
    2: [(32, 48), (64, 32), (48, 64), (32, 96), (80, 48), (96, 32), (32, 112), (128, 32)],
    3: [(8, 8, 16), (16, 8, 8), (8, 16, 8), (12, 8, 12), (8, 12, 16), (8, 8, 20), (16, 8, 12), (8, 20, 8)],
}


def unet(network, dims):
    torch.manual_seed(0)
    return network(
        input_channels=3, n_stages=3, features_per_stage=[2, 4, 6], conv_op=nn.Conv2d if dims == 2 else nn.Conv3d,
        kernel_sizes=3, strides=[1, 2, 2], num_classes=2, n_conv_per_stage=1, n_conv_per_stage_decoder=1,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
    )  # fmt: skip


def graphs(network, dims, dynamic):
    """How many graphs were compiled by the end."""
    torch._dynamo.reset()
    counter = CompileCounter()
    # past the limit, PyTorch would run the network uncompiled: then it is an error
    compiled = torch.compile(network.eval(), backend=counter, dynamic=dynamic, fullgraph=True)
    with torch.no_grad():
        for size in SIZES[dims]:
            assert compiled(torch.rand(2, 3, *size)).shape == (2, 2, *size)
    return counter.frame_count


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_unet_compiles_as_often_as_the_stock_network(dims):
    assert graphs(unet(XAttnResUNet, dims), dims, None) <= graphs(unet(PlainConvUNet, dims), dims, None)


@pytest.mark.slow
def test_the_papers_unet_compiles_once():
    # without the graphs that PyTorch tries before it takes sizes for variables: they take long to trace
    assert graphs(PaperUNet(3, 2), 2, True) == 1 == graphs(unet(PlainConvUNet, 2), 2, True)
