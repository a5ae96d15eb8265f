"""The networks and the mechanism: what a plans file can name."""

from nnunetv2_xattnres.architectures.emcad import EMCADNet
from nnunetv2_xattnres.architectures.paper_unet import PaperUNet
from nnunetv2_xattnres.architectures.unet import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes

__all__ = ["EMCADNet", "History", "PaperUNet", "XAttnRes", "XAttnResResidualEncoderUNet", "XAttnResUNet"]
