"""The networks and the mechanism: what a plans file can name."""

from nnunetv2_xattnres.architectures import kernels  # noqa: F401 - registers the fast forms
from nnunetv2_xattnres.architectures.emcad import EMCADNet
from nnunetv2_xattnres.architectures.paper_unet import PaperUNet
from nnunetv2_xattnres.architectures.unet import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import History, Kernel, XAttnRes, register_kernel, use_kernel

__all__ = [
    "EMCADNet",
    "History",
    "Kernel",
    "PaperUNet",
    "XAttnRes",
    "XAttnResResidualEncoderUNet",
    "XAttnResUNet",
    "register_kernel",
    "use_kernel",
]
