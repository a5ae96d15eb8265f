"""Trainers with the paper's recipe ("strictly EMCAD's"); :class:`Recipe` has its values."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, autocast, nn
from torch import distributed as dist

from nnunetv2_xattnres.catalogue import Network, network_of_class
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import BEST, EPOCH_KEY, FINAL, WEIGHTS_KEY
from nnunetv2_xattnres.outputs import replace_file
from nnunetv2_xattnres.plans.files import RECIPE_KEY
from nnunetv2_xattnres.trainers.augmentation import paper_transforms
from nnunetv2_xattnres.trainers.base import PluginTrainer
from nnunetv2_xattnres.trainers.emcad import nnUNetTrainer_EMCAD
from nnunetv2_xattnres.trainers.losses import SubsetLoss, SumLoss, WeightedBCEIoULoss
from nnunetv2_xattnres.trainers.multiscale import forward_at_scale
from nnunetv2_xattnres.trainers.recipe import Recipe
from nnunetv2_xattnres.trainers.seeding import Purpose, seed_of_environment
from nnunetv2_xattnres.trainers.validation import mean_dice, pixel_counts
from nnunetv2_xattnres.trainers.whole_images import Share, WholeImageLoader
from nnunetv2_xattnres.trainers.xattnres import nnUNetTrainer_XAttnRes

LAST_WEIGHTS_KEY = "last_network_weights"  # in checkpoint_final.pth, whose weights are those of the best epoch


class PaperRecipe(PluginTrainer):
    """A mixin with the paper's recipe; it must be the first base class of a trainer.

    The values are those for Synapse if the data set has several labels, and those for the binary data sets if it has
    one. ``paper_recipe`` of the configuration in the plans file changes single values. The plans in the results folder
    have all of them. The kept model (``checkpoint_best.pth`` and ``checkpoint_final.pth``) is that of the epoch with
    the best validation Dice (mean over cases, then over classes).

    Raises:
        InputError: the configuration is not 2D, or its ``paper_recipe`` cannot be used.
    """

    def adapt_plans(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """Choose the recipe, and write all its values into the configuration."""
        manager = PlansManager({key: value for key, value in plans.items() if key != "continue_training"})
        found = manager.get_configuration(configuration).configuration
        labels = manager.get_label_manager(dataset_json)
        if len(found["patch_size"]) != 2:
            raise InputError(
                f"{type(self).__name__} trains slices, and configuration {configuration} is 3D: "
                "choose a 2d configuration, or nnU-Net's recipe with -tr nnUNetTrainer_XAttnRes"
            )
        count = len(labels.foreground_regions if labels.has_regions else labels.foreground_labels)
        self.recipe_overrides = dict(found.get(RECIPE_KEY) or {})
        self.recipe = Recipe.choose(count, self.recipe_overrides, configuration)
        plans["configurations"][configuration].update(
            {RECIPE_KEY: self.recipe.to_json(), "batch_size": self.recipe.batch_size}
        )
        return super().adapt_plans(plans, configuration, dataset_json)

    def configure_recipe(self) -> None:
        """Set the recipe's learning rate and lengths."""
        super().configure_recipe()
        self.initial_lr = self.recipe.learning_rate
        self.weight_decay = self.recipe.weight_decay
        self.num_epochs = self.recipe.epochs
        self.several_outputs = self._entry is not None and self._entry.outputs > 1
        self.enable_deep_supervision = self.several_outputs
        self._best_ema = math.inf  # so that nnU-Net never writes its own best one, which a moving average chooses
        self._restored = ""  # the checkpoint that this training continues from
        self._loaders: tuple[WholeImageLoader, WholeImageLoader]

    def initialize(self) -> None:
        """As nnU-Net, but each scale is compiled for itself: with symbolic sizes, tracing XAttnRes takes minutes."""
        super().initialize()
        if self._do_i_compile():
            compiled: Any = torch.compile(self._bare_network(), dynamic=False)
            if self.is_ddp:
                self.network.module = compiled
            else:
                self.network = compiled

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW on all parameters, at a constant learning rate."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, exponent=0)

    def _build_loss(self) -> nn.Module:
        loss = self._loss_of_one_output()
        if self._entry is None or not self.several_outputs:
            return loss
        return SubsetLoss(loss) if self._entry.loss == "subsets" else SumLoss(loss)

    @property
    def _entry(self) -> Network | None:
        """The network in the catalogue."""
        return network_of_class(self.configuration_manager.network_arch_class_name)

    def _loss_of_one_output(self) -> nn.Module:
        ignore, regions = self.label_manager.ignore_label, self.label_manager.has_regions
        if self.recipe.loss == "weighted_bce_iou":
            return WeightedBCEIoULoss(regions, ignore)
        dice = {"batch_dice": True, "do_bg": True, "smooth": 1e-5, "ddp": self.is_ddp}
        weights: dict[str, Any] = {"weight_ce": self.recipe.ce_weight, "weight_dice": self.recipe.dice_weight}
        if regions:
            return DC_and_BCE_loss(
                {}, dice, use_ignore_label=ignore is not None, dice_class=MemoryEfficientSoftDiceLoss, **weights
            )
        return DC_and_CE_loss(dice, {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss, **weights)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Whole slices, each once per epoch, for training and for validation."""
        if self.dataset_class is None:  # type: ignore[has-type]
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        patch = tuple(self.configuration_manager.patch_size)
        axes = (0, 1) if self.recipe.test_time_mirroring else None
        self.inference_allowed_mirroring_axes = axes
        regions = self.label_manager.foreground_regions if self.label_manager.has_regions else None
        common: dict[str, Any] = {"regions": regions, "ignore_label": self.label_manager.ignore_label}
        scales = self._get_deep_supervision_scales()
        cases_train, cases_val = self.get_tr_and_val_datasets()
        train = WholeImageLoader(
            cases_train,
            self._share(self.recipe.batch_size),
            patch,
            paper_transforms(self.recipe, patch, scales, **common),
            shuffle=True,
            seed=seed_of_environment() or 0,
        )
        val = WholeImageLoader(
            cases_val,
            self._share(self.recipe.batch_size),
            patch,
            self.get_validation_transforms(scales, **common),
            shuffle=False,
        )
        self.num_iterations_per_epoch = self.recipe.iterations_per_epoch or train.batches
        self.num_val_iterations_per_epoch = self.recipe.validation_iterations or val.batches
        train.start_at(self.current_epoch * self.num_iterations_per_epoch)
        self._loaders = train, val
        # more workers than batches would only prepare later passes
        workers = get_allowed_n_proc_DA()
        return (
            self._in_processes(train, Purpose.TRAINING_BATCH, min(workers, train.batches), cached=2),
            self._in_processes(val, Purpose.VALIDATION_BATCH, min(workers // 2, val.batches), cached=2),
        )

    def _share(self, batch_size: int) -> Share:
        """This process's part of each batch; nnU-Net has divided the batch among the GPUs."""
        if not self.is_ddp:
            return Share(0, batch_size, batch_size)
        sizes: list[int] = [0] * dist.get_world_size()
        dist.all_gather_object(sizes, self.batch_size)
        return Share(sum(sizes[: self.local_rank]), self.batch_size, batch_size)

    def on_train_start(self) -> None:
        """As nnU-Net, and print the recipe; more epochs after a complete training continue from its last weights."""
        super().on_train_start()
        if os.path.basename(self._restored) == FINAL:
            final = torch.load(self._restored, map_location="cpu", weights_only=False)
            if LAST_WEIGHTS_KEY in final:
                self._bare_network().load_state_dict(final[LAST_WEIGHTS_KEY])
        train, val = self._loaders
        self.print_to_log_file(self.recipe.describe(self.recipe_overrides), add_timestamp=False)
        self.print_to_log_file(
            f"An epoch is {self.num_iterations_per_epoch} iterations ({len(train.slices)} slices or images in batches "
            f"of {self.recipe.batch_size}), its validation {self.num_val_iterations_per_epoch} ({len(val.slices)})"
        )
        cropped = train.larger_than_patch()
        if cropped:
            self.print_to_log_file(
                f"WARNING: {cropped} training cases are larger than the patch {train.patch_size[1:]} and are cropped "
                "at random, where the paper resizes whole images: convert with --size, or set a larger patch_size"
            )

    def train_step(self, batch: dict) -> dict:
        """One optimiser step at each scale; the loss is their mean."""
        data, target = self._to_device(batch)
        losses = [self._step(data, target, scale) for scale in self.recipe.scales]
        return self._count({"loss": np.mean(losses)})

    def _step(self, data: Tensor, target: Tensor | list[Tensor], scale: float) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device.type, enabled=self.device.type == "cuda"):
            outputs = forward_at_scale(self.network, self._bare_network(), data, scale, self._size_multiple())
            loss = self.loss(outputs, target)
        if self.grad_scaler is None:
            loss.backward()
            self._clip()
            self.optimizer.step()
        else:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            self._clip()
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        return float(loss.detach())

    def _clip(self) -> None:
        limit = self.recipe.clipping
        if limit is not None:
            clip = nn.utils.clip_grad_value_ if self.recipe.clipping_by == "value" else nn.utils.clip_grad_norm_
            clip(self.network.parameters(), limit)

    def _to_device(self, batch: dict) -> tuple[Tensor, Tensor | list[Tensor]]:
        target = batch["target"]
        if isinstance(target, list):
            moved = [each.to(self.device, non_blocking=True) for each in target]
        else:
            moved = target.to(self.device, non_blocking=True)
        return batch["data"].to(self.device, non_blocking=True), moved

    def _size_multiple(self) -> list[int]:
        """32, as in EMCAD's recipe, or more if the network divides its input further."""
        strides = np.prod(np.vstack(self.configuration_manager.pool_op_kernel_sizes), axis=0)
        return [math.lcm(32, int(stride)) for stride in strides]

    def validation_step(self, batch: dict) -> dict:
        """The loss, and the true and false pixels per sample and class."""
        data, target = self._to_device(batch)
        self._note_routing(data)
        with autocast(self.device.type, enabled=self.device.type == "cuda"):
            outputs = self.network(data)
            loss = self.loss(outputs, target)
        logits = outputs[0] if self.several_outputs else outputs
        labels: Any = target[0] if self.several_outputs else target
        counts = pixel_counts(logits, labels, self.label_manager.has_regions, self.label_manager.ignore_label)
        return self._count({"loss": float(loss), "keys": batch["keys"], "counts": counts})

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Dice averaged over cases, then over classes; it decides which model is kept."""
        self._end_progress()
        records = {key: counts for out in val_outputs for key, counts in zip(out["keys"], out["counts"], strict=True)}
        losses = [out["loss"] for out in val_outputs]
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, (records, losses))
            records = {key: counts for part, _ in gathered for key, counts in part.items()}
            losses = [loss for _, part in gathered for loss in part]
        per_class, mean = mean_dice(records)
        self.logger.log("mean_fg_dice", mean, self.current_epoch)
        self.logger.log("dice_per_class_or_region", per_class, self.current_epoch)
        self.logger.log("val_losses", float(np.mean(losses)), self.current_epoch)

    def on_epoch_end(self) -> None:
        """As nnU-Net, and keep the model if its validation Dice is the best so far."""
        super().on_epoch_end()
        *before, dice = (0.0 if math.isnan(value) else value for value in self.logger.get_value("mean_fg_dice", None))
        if not before or dice > max(before):
            self.print_to_log_file(f"Best validation Dice so far: {dice:.4f}, this model is kept")
            self.current_epoch -= 1  # as in nnU-Net's on_train_end: the epoch was already incremented
            self.save_checkpoint(os.path.join(self.output_folder, BEST))
            self.current_epoch += 1

    def load_checkpoint(self, *arguments: Any, **named: Any) -> None:
        """As nnU-Net, which has renamed the parameter; the best Dice so far is in the restored log."""
        super().load_checkpoint(*arguments, **named)
        self._best_ema = math.inf
        self._restored = next((value for value in (*arguments, *named.values()) if isinstance(value, str)), "")

    def on_train_end(self) -> None:
        """As nnU-Net, then make the best model the final one, for validation and predictions."""
        super().on_train_end()
        best, final = (Path(self.output_folder) / name for name in (BEST, FINAL))
        if self.is_ddp:
            dist.barrier()
        if self.disable_checkpointing:
            return
        kept = torch.load(best, map_location="cpu", weights_only=False)
        self._bare_network().load_state_dict(kept[WEIGHTS_KEY])
        if self.is_ddp:
            dist.barrier()
        if self.local_rank == 0:
            checkpoint = torch.load(final, map_location="cpu", weights_only=False)
            if kept[EPOCH_KEY] != checkpoint[EPOCH_KEY]:
                checkpoint[LAST_WEIGHTS_KEY] = checkpoint[WEIGHTS_KEY]  # the optimizer's state belongs to them
            checkpoint.update({WEIGHTS_KEY: kept[WEIGHTS_KEY], "kept_epoch": kept[EPOCH_KEY] - 1})
            partial = final.with_suffix(".partial")
            torch.save(checkpoint, partial)
            replace_file(partial, final)
            self.print_to_log_file(f"The model kept is that of epoch {checkpoint['kept_epoch']}")


class nnUNetTrainer_XAttnRes_Paper(PaperRecipe, nnUNetTrainer_XAttnRes):
    """The paper's recipe for any 2D network; where it has several outputs, each has a loss."""


class nnUNetTrainer_EMCAD_Paper(PaperRecipe, nnUNetTrainer_EMCAD):
    """The paper's recipe for EMCAD: pretrained encoder, and the loss over the fifteen subsets of its four outputs."""
