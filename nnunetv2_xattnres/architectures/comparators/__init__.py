"""The networks that the paper compares with in Tables 1 and 2, each written from its publication."""

from nnunetv2_xattnres.architectures.comparators.swin_unet import SwinUNet
from nnunetv2_xattnres.architectures.comparators.trans_cascade import TransCascade
from nnunetv2_xattnres.architectures.comparators.transunet import TransUNet

__all__ = ["SwinUNet", "TransCascade", "TransUNet"]
