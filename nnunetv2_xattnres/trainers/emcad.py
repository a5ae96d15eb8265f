"""``nnUNetTrainer_EMCAD``: pretrained encoder, AdamW and EMCAD's loss, with nnU-Net's epochs and augmentation."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnunetv2_xattnres.catalogue import NETWORKS
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.trainers.base import PluginTrainer
from nnunetv2_xattnres.trainers.losses import SubsetLoss

WEIGHT_CE, WEIGHT_DICE = 0.3, 0.7


class nnUNetTrainer_EMCAD(PluginTrainer):
    """Trains a configuration whose network is ``EMCADNet``.

    The optimiser is AdamW at a constant 1e-4 with weight decay 1e-4. The loss is 0.3 cross-entropy + 0.7 Dice, summed
    over the fifteen subsets of the four outputs.

    Raises:
        InputError: the configuration names another network, or the weights cannot be loaded.
    """

    def configure_recipe(self) -> None:
        """Set EMCAD's learning rate and weight decay."""
        super().configure_recipe()
        name = self.configuration_manager.network_arch_class_name
        if name != NETWORKS["emcad"].class_name:
            raise InputError(
                f"{type(self).__name__} trains EMCAD, and configuration {self.configuration_name} of "
                f"{self.plans_manager.plans_name} names {name}: write one with `nnunetv2_xattnres plan --network emcad`"
            )
        self.initial_lr = 1e-4
        self.weight_decay = 1e-4

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW at a constant learning rate."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        # exponent 0: nnU-Net passes the epoch to the scheduler's step, which torch's own schedulers deprecate
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, exponent=0)

    def _build_loss(self) -> nn.Module:
        dice = {"batch_dice": self.configuration_manager.batch_dice, "smooth": 1e-5, "ddp": self.is_ddp}
        ignore = self.label_manager.ignore_label
        common: dict[str, Any] = {
            "weight_ce": WEIGHT_CE,
            "weight_dice": WEIGHT_DICE,
            "dice_class": MemoryEfficientSoftDiceLoss,
        }
        if self.label_manager.has_regions:
            loss = DC_and_BCE_loss({}, {**dice, "do_bg": True}, use_ignore_label=ignore is not None, **common)
        else:
            loss = DC_and_CE_loss({**dice, "do_bg": False}, {}, ignore_label=ignore, **common)
        if self._do_i_compile():
            loss.dc = torch.compile(loss.dc)
        return SubsetLoss(loss)


class nnUNetTrainer_EMCAD_Trial(nnUNetTrainer_EMCAD):
    """2 epochs of 20 iterations, 5 for validation, to test whether a training runs on a machine and with its data."""

    epochs = 2
    iterations = 20
    validation_iterations = 5
