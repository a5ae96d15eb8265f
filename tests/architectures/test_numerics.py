"""Where nnU-Net's network computes finite numbers, the one with XAttnRes does so, too."""

import pytest
import torch
from test_unet import build
from torch import nn


def steps(network, images, dtype, count, learning_rate=0.01):
    """Whether each step's outputs and weights were finite; nnU-Net's optimiser, clipping and gradient scaler.

    The scaler skips a step whose gradients overflow. On an empty image they do so in nnU-Net's own normalisation, which
    multiplies the gradient of a constant map by 316.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0, enabled=dtype == torch.float16)
    finite = []
    for step in range(count):
        image = images[step % len(images)]
        target = (image[:, 0] > image[:, 0].mean()).long()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            outputs = network(image)
            loss = nn.functional.cross_entropy(outputs[0].float(), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        values = torch.cat([tensor.detach().flatten() for tensor in (*outputs, *network.parameters())])
        finite.append(bool(values.isfinite().all()))
    return finite


def small(variant, stages=3):
    shape = {"features_per_stage": [4, 8, 8][:stages], "strides": [1, 2, 2][:stages], "n_conv_per_stage_decoder": 1}
    return build("plain", variant, n_stages=stages, n_conv_per_stage=1, **shape)


@pytest.mark.slow
def test_two_thousand_steps_in_bfloat16():
    torch.manual_seed(0)
    images = torch.randn(16, 2, 2, 8, 8)
    # two stages have every path: entries that are pooled, enlarged, projected, and of the stage's own size
    networks = {variant: small(variant, stages=2) for variant in ("baseline", "both")}
    finite = {variant: steps(network, images, torch.bfloat16, 2000) for variant, network in networks.items()}
    assert all(finite["baseline"])  # or the test would ask for nothing
    assert all(finite["both"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 6e4])
def test_images_of_any_scale_with_empty_areas(scale, dtype):
    torch.manual_seed(0)
    images = torch.rand(4, 2, 2, 16, 16) * scale
    images[..., :8, :] = 0
    images[0] = 0
    finite = {variant: steps(small(variant), images, dtype, 8, 1e-3) for variant in ("baseline", "replace", "both")}
    for variant in ("replace", "both"):
        assert all(ours or not stock for ours, stock in zip(finite[variant], finite["baseline"], strict=True))
    assert any(finite["baseline"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["plain", "numba", "cuda"])
def test_features_at_the_end_of_float16s_range(kernel, dtype):
    from nnunetv2_xattnres.architectures import use_kernel
    from nnunetv2_xattnres.architectures.xattnres import XAttnRes

    torch.manual_seed(0)
    module = XAttnRes([3, 4, 4], 4, nn.Conv2d)
    nn.init.normal_(module.query)
    with torch.no_grad():
        module.projections[0].weight.fill_(1 / 3)
    sizes = [(16, 16), (8, 8), (4, 4), (8, 8)]
    features = [
        ((torch.rand(2, width, *size) - 0.5) * 1.2e5).to(dtype) for width, size in zip([3, 4, 4, 4], sizes, strict=True)
    ]
    for feature in features:
        feature[:, :, : feature.shape[2] // 2] = 0  # the RMS of these pixels is 0
        feature.requires_grad_()
    with use_kernel(kernel):
        mixed = module(features[:3], features[3])
        (mixed.float() / 6e4).square().mean().backward()
    assert torch.isfinite(mixed).all()
    assert mixed.abs().max() > 1e3
    for tensor in (*features, *module.parameters()):
        assert torch.isfinite(tensor.grad).all()
