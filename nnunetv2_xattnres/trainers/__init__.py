"""Trainers for nnU-Net, which finds them through the hook ``nnUNet_extTrainer``."""

from nnunetv2_xattnres.trainers.emcad import nnUNetTrainer_EMCAD, nnUNetTrainer_EMCAD_Trial
from nnunetv2_xattnres.trainers.lengths import (
    nnUNetTrainer_XAttnRes_5epochs,
    nnUNetTrainer_XAttnRes_10epochs,
    nnUNetTrainer_XAttnRes_50epochs,
    nnUNetTrainer_XAttnRes_100epochs,
    nnUNetTrainer_XAttnRes_250epochs,
    nnUNetTrainer_XAttnRes_Demo,
    nnUNetTrainer_XAttnRes_Trial,
)
from nnunetv2_xattnres.trainers.paper import nnUNetTrainer_EMCAD_Paper, nnUNetTrainer_XAttnRes_Paper
from nnunetv2_xattnres.trainers.xattnres import (
    nnUNetTrainer_XAttnRes,
    nnUNetTrainer_XAttnRes_DecoderOnly,
    nnUNetTrainer_XAttnRes_EncoderOnly,
    nnUNetTrainer_XAttnRes_NoSkip,
    nnUNetTrainer_XAttnRes_Replace,
    nnUNetTrainer_XAttnRes_StockStart,
    nnUNetTrainer_XAttnRes_SumLoss,
)

__all__ = [
    "nnUNetTrainer_EMCAD",
    "nnUNetTrainer_EMCAD_Paper",
    "nnUNetTrainer_EMCAD_Trial",
    "nnUNetTrainer_XAttnRes",
    "nnUNetTrainer_XAttnRes_5epochs",
    "nnUNetTrainer_XAttnRes_10epochs",
    "nnUNetTrainer_XAttnRes_50epochs",
    "nnUNetTrainer_XAttnRes_100epochs",
    "nnUNetTrainer_XAttnRes_250epochs",
    "nnUNetTrainer_XAttnRes_DecoderOnly",
    "nnUNetTrainer_XAttnRes_Demo",
    "nnUNetTrainer_XAttnRes_EncoderOnly",
    "nnUNetTrainer_XAttnRes_NoSkip",
    "nnUNetTrainer_XAttnRes_Paper",
    "nnUNetTrainer_XAttnRes_Replace",
    "nnUNetTrainer_XAttnRes_StockStart",
    "nnUNetTrainer_XAttnRes_SumLoss",
    "nnUNetTrainer_XAttnRes_Trial",
]
