"""Any plan that nnU-Net's own networks accept works with XAttnRes in it, and computes the literal equations."""

from copy import deepcopy
from unittest.mock import patch

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracle import literal
from torch import nn

from nnunetv2_xattnres.architectures import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import QUERY_INITS, XAttnRes

STOCK = {XAttnResUNet: PlainConvUNet, XAttnResResidualEncoderUNet: ResidualEncoderUNet}


@st.composite
def plans(draw):
    """A network's class and arguments as in a plans file, its routing, and the size of a batch."""
    dims = draw(st.sampled_from([2, 3]))
    stages = draw(st.integers(2, 5 if dims == 2 else 4))

    def per_stage(values):
        return draw(st.lists(values, min_size=stages, max_size=stages))

    def axes(*values):
        return st.lists(st.sampled_from(values), min_size=dims, max_size=dims)

    strides = [[1] * dims, *per_stage(axes(1, 2, 2, 3))[1:]]
    network = draw(st.sampled_from(list(STOCK)))
    arguments = {
        "input_channels": draw(st.integers(1, 4)),
        "n_stages": stages,
        "features_per_stage": per_stage(st.integers(1, 9)),
        "conv_op": (nn.Conv2d, nn.Conv3d)[dims - 2],
        "kernel_sizes": per_stage(axes(1, 3, 5)),
        "strides": strides,
        "num_classes": draw(st.integers(1, 4)),
        "n_conv_per_stage_decoder": draw(st.lists(st.integers(1, 2), min_size=stages - 1, max_size=stages - 1)),
        "conv_bias": draw(st.booleans()),
        "norm_op": (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2],
        "norm_op_kwargs": {"affine": True, "eps": 1e-5},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": draw(st.booleans()),
    }
    blocks = "n_conv_per_stage" if network is XAttnResUNet else "n_blocks_per_stage"
    arguments[blocks] = per_stage(st.integers(1, 3))
    routing = {key: draw(st.booleans()) for key in ("skip_connections", "encoder", "decoder")}
    routing["query_init"] = draw(st.sampled_from(QUERY_INITS))
    # most sizes are multiples of the strides, as nnU-Net plans them; the others show what happens to any size
    total = torch.tensor(strides).prod(0)
    multiples = torch.tensor(draw(axes(1, 2, 3))) if draw(st.integers(0, 4)) else torch.tensor(draw(axes(1.3, 2.5)))
    size = (total * multiples).int().clamp(min=1)
    assume(size.prod() <= 40_000)
    return network, arguments, routing, (draw(st.integers(1, 2)), arguments["input_channels"], *size.tolist())


def as_the_equations_say(module, history, x):
    """What stands for ``XAttnRes.forward`` in the reference."""
    if not module.projections:
        return x
    projections = [None if isinstance(p, nn.Identity) else p.weight for p in module.projections]
    return literal(list(history), x, projections, module.query, module.norm_weight, module.eps)[0]


def loss_of(outputs):
    return sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(plans())
def test_what_nnunets_networks_accept_works_and_computes_the_equations(plan):
    network, arguments, routing, shape = plan
    torch.manual_seed(0)
    x = torch.randn(shape)
    stock = STOCK[network](**arguments)
    try:
        expected = stock(x)
    except (RuntimeError, ValueError):
        assume(False)  # nnU-Net's own network refuses it: a size that does not fit, or one value per channel
    ours = network(**arguments, routing=routing)
    for module in ours.modules():
        if isinstance(module, XAttnRes) and module.projections:
            nn.init.normal_(module.query)
    ours = ours.double()  # in float32, an activation that changes its side changes a gradient by a per cent
    outputs = ours(x.double())
    as_list = outputs if isinstance(outputs, list) else [outputs]
    expected = expected if isinstance(expected, list) else [expected]
    assert [o.shape for o in as_list] == [o.shape for o in expected]

    loss_of(outputs).backward()
    assert [n for n, p in ours.named_parameters() if p.grad is None and ".seg_layers" not in n] == []
    exact = deepcopy(ours)
    exact.zero_grad()
    with patch.object(XAttnRes, "forward", as_the_equations_say):
        wanted = exact(x.double())
        loss_of(wanted).backward()
    gradients = [torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]) for one in (ours, exact)]
    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[1].norm() + 1e-8
    for got, want in zip(as_list, wanted if isinstance(wanted, list) else [wanted], strict=True):
        assert (got - want).norm() <= 1e-6 * want.norm() + 1e-8
