"""``nnUNetTrainer_XAttnRes``: nnU-Net's recipe with XAttnRes in the network, on any stock plans."""

from __future__ import annotations

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunetv2_xattnres.catalogue import VARIANTS
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.architecture import architecture_of, is_ours, with_routing
from nnunetv2_xattnres.trainers.base import PluginTrainer
from nnunetv2_xattnres.trainers.losses import SumLoss


class nnUNetTrainer_XAttnRes(PluginTrainer):
    """XAttnRes in every stage, in addition to skip connections (``both`` of Table 3).

    The plans alone decide the architecture: the network is replaced in the plans before anything is built, so the plans
    in the results folder name the trained network. Plans that already name a network of this package stay unchanged.

    Raises:
        InputError: the configuration's network is neither a plain nor a residual-encoder U-Net.
    """

    variant = "both"

    def adapt_plans(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """Put XAttnRes into the configuration's network, unless the plans name a network of this package."""
        architecture = architecture_of(plans, configuration)
        where = f"configuration {configuration} of {plans['plans_name']}"
        if not is_ours(architecture):
            architecture = with_routing(architecture, VARIANTS[self.variant].routing, where)
        elif self.variant != nnUNetTrainer_XAttnRes.variant:
            raise InputError(
                f"{where} already says which routing it trains, and {type(self).__name__} asks for {self.variant!r}: "
                f"use -tr {nnUNetTrainer_XAttnRes.__name__}, which trains what the plans say."
            )
        plans["configurations"][configuration]["architecture"] = architecture
        return super().adapt_plans(plans, configuration, dataset_json)


class nnUNetTrainer_XAttnRes_Replace(nnUNetTrainer_XAttnRes):
    """XAttnRes in every stage, without skip connections (``replace`` of Table 3)."""

    variant = "replace"


class nnUNetTrainer_XAttnRes_NoSkip(nnUNetTrainer_XAttnRes):
    """Neither XAttnRes nor skip connections (``no skip`` of Table 3)."""

    variant = "noskip"


class nnUNetTrainer_XAttnRes_EncoderOnly(nnUNetTrainer_XAttnRes):
    """XAttnRes in the encoder only, without skip connections (Table 4)."""

    variant = "encoder"


class nnUNetTrainer_XAttnRes_DecoderOnly(nnUNetTrainer_XAttnRes):
    """XAttnRes in the decoder only, without skip connections (Table 4)."""

    variant = "decoder"


class nnUNetTrainer_XAttnRes_StockStart(nnUNetTrainer_XAttnRes):
    """``both``, which starts as the stock network: for a training with ``-pretrained_weights`` of a stock network.

    The paper has no such start.
    """

    variant = "stock_start"


class nnUNetTrainer_XAttnRes_SumLoss(nnUNetTrainer_XAttnRes):
    """nnU-Net's recipe, but each output's loss has weight 1: the published loss of most networks with several outputs.

    nnU-Net's own gives output i the weight 2^-i.
    """

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        return SumLoss(loss.loss) if isinstance(loss, DeepSupervisionWrapper) else loss
