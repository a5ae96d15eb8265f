"""The networks and the mechanism: what a plans file can name."""

from nnunetv2_xattnres.architectures.unet import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes

__all__ = ["History", "XAttnRes", "XAttnResResidualEncoderUNet", "XAttnResUNet"]
