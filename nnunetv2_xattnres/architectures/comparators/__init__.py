"""The networks that the paper compares with in Tables 1 and 2, each written from its publication."""

from nnunetv2_xattnres.architectures.comparators.attention_unet import AttentionUNet
from nnunetv2_xattnres.architectures.comparators.caranet import CaraNet
from nnunetv2_xattnres.architectures.comparators.deeplab import DeepLabV3Plus
from nnunetv2_xattnres.architectures.comparators.missformer import MISSFormer
from nnunetv2_xattnres.architectures.comparators.mt_unet import MTUNet
from nnunetv2_xattnres.architectures.comparators.polyp_pvt import PolypPVT
from nnunetv2_xattnres.architectures.comparators.pranet import PraNet
from nnunetv2_xattnres.architectures.comparators.pvt_cascade import PVTCascade
from nnunetv2_xattnres.architectures.comparators.ssformer import SSFormer
from nnunetv2_xattnres.architectures.comparators.swin_unet import SwinUNet
from nnunetv2_xattnres.architectures.comparators.trans_cascade import TransCascade
from nnunetv2_xattnres.architectures.comparators.transunet import TransUNet
from nnunetv2_xattnres.architectures.comparators.uctransnet import UCTransNet
from nnunetv2_xattnres.architectures.comparators.unet_3_plus import UNet3Plus
from nnunetv2_xattnres.architectures.comparators.unet_plus_plus import UNetPlusPlus

__all__ = [
    "AttentionUNet",
    "CaraNet",
    "DeepLabV3Plus",
    "MISSFormer",
    "MTUNet",
    "PVTCascade",
    "PolypPVT",
    "PraNet",
    "SSFormer",
    "SwinUNet",
    "TransCascade",
    "TransUNet",
    "UCTransNet",
    "UNet3Plus",
    "UNetPlusPlus",
]
