"""Small networks of all four kinds, and a network of a user's own."""

import torch
from torch import nn

from nnunetv2_xattnres.architectures import EMCADNet, PaperUNet, XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import XAttnRes


def unet(dims: int, residual: bool = False, **arguments):
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    blocks = {"n_blocks_per_stage": [1, 1, 2]} if residual else {"n_conv_per_stage": 2}
    arguments = {"input_channels": 1, "num_classes": 2} | arguments
    return (XAttnResResidualEncoderUNet if residual else XAttnResUNet)(
        n_stages=3, features_per_stage=[4, 8, 8], conv_op=conv, kernel_sizes=3, strides=[1, 2, 2], conv_bias=True,
        n_conv_per_stage_decoder=1, norm_op=norm, norm_op_kwargs={}, nonlin=nn.ReLU, nonlin_kwargs={},
        **blocks, **arguments,
    )  # fmt: skip


class OwnNetwork(nn.Module):
    """Two stages in a list, one sum that no module makes, and a reader of all of them, with a plain list."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)])
        self.mix = XAttnRes([4, 4, 4], 4, nn.Conv2d)

    def forward(self, x):
        first = self.stages[0](x)
        second = self.stages[1](first)
        return self.mix([first, second, first + second], second)


U_ENCODER = ["encoder 2", "encoder 3", "decoder 1", "decoder 2"]
PAPER = [*(f"encoder {n}" for n in range(2, 6)), *(f"decoder {n}" for n in range(1, 5))]
# name: (network, shape of an input, stages with readers)
NETWORKS = {
    "plain 2D": (lambda: unet(2), (1, 1, 16, 16), U_ENCODER),
    "plain 3D": (lambda: unet(3), (1, 1, 8, 8, 8), U_ENCODER),
    "residual 2D": (lambda: unet(2, residual=True), (1, 1, 16, 16), U_ENCODER),
    "residual 3D": (lambda: unet(3, residual=True), (1, 1, 8, 8, 8), U_ENCODER),
    "paper": (lambda: PaperUNet(3, 2), (1, 3, 32, 48), PAPER),
    "emcad": (lambda: EMCADNet(3, 2, encoder="pvt_v2_b0"), (1, 3, 64, 64), [f"decoder {n}" for n in (2, 3, 4)]),
}


def trained(network, seed=0):
    """The network with queries as after a training: not zero, and different for each reader."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, XAttnRes) and len(module.projections):
                module.query.normal_(std=1.0)
    return network.eval()
