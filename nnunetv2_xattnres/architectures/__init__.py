"""The networks and the mechanism: what a plans file can name."""

from nnunetv2_xattnres.architectures import blocked
from nnunetv2_xattnres.architectures.emcad import EMCADNet
from nnunetv2_xattnres.architectures.paper_unet import PaperUNet
from nnunetv2_xattnres.architectures.unet import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes, register_kernel, use_kernel

register_kernel("blocked", blocked.aggregate, devices=["cpu"])

__all__ = [
    "EMCADNet",
    "History",
    "PaperUNet",
    "XAttnRes",
    "XAttnResResidualEncoderUNet",
    "XAttnResUNet",
    "use_kernel",
]
