"""What every trainer of the package adds to nnU-Net's: progress within an epoch, a seed, a portable model."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunetv2_xattnres.errors import InputError

SEED_VARIABLE = "XATTNRES_SEED"
OWN_NAME_KEY = "xattnres_trainer_name"


class PluginTrainer(nnUNetTrainer):
    """nnU-Net's trainer with its recipe unchanged.

    - Within each epoch, a progress bar on a terminal, and a line at every quarter in the log.
    - ``XATTNRES_SEED`` in the environment seeds python, numpy and torch before the network is built.
    - At the end of training, ``trainer_name`` in the checkpoints becomes ``nnUNetTrainer``: the plans alone rebuild the
      network, so a finished model predicts without ``nnUNet_extTrainer``.

    Attributes:
        epochs, iterations, validation_iterations: Lengths that a subclass sets; ``None`` keeps nnU-Net's.
    """

    epochs: int | None = None
    iterations: int | None = None
    validation_iterations: int | None = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.epochs or self.num_epochs
        self.num_iterations_per_epoch = self.iterations or self.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = self.validation_iterations or self.num_val_iterations_per_epoch
        self._progress: _Progress | None = None

    def initialize(self) -> None:
        """Seed where asked to, then build network, optimiser and loss as nnU-Net does."""
        seed = os.environ.get(SEED_VARIABLE)
        if seed:
            if not seed.isdecimal() or int(seed) >= 2**31:
                raise InputError(f"{SEED_VARIABLE} is {seed}: give a whole number from 0 to {2**31 - 1}, or unset it")
            # one process a GPU: each draws its own augmentations
            value = int(seed) + self.local_rank
            random.seed(value)
            np.random.seed(value)
            torch.manual_seed(value)
            self.print_to_log_file(f"Seed {value} ({SEED_VARIABLE})")
        super().initialize()

    def on_train_epoch_start(self) -> None:
        """As nnU-Net, and start the progress of the epoch."""
        super().on_train_epoch_start()
        self._progress = _Progress(self, f"Epoch {self.current_epoch}", self.num_iterations_per_epoch)

    def train_step(self, batch: dict) -> dict:
        """As nnU-Net, and count the iteration."""
        return self._count(super().train_step(batch))

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """As nnU-Net, and end the progress of the epoch."""
        self._end_progress()
        super().on_train_epoch_end(train_outputs)

    def on_validation_epoch_start(self) -> None:
        """As nnU-Net, and start the progress of the validation."""
        super().on_validation_epoch_start()
        self._progress = _Progress(
            self, f"Epoch {self.current_epoch} validation", self.num_val_iterations_per_epoch, log=False
        )

    def validation_step(self, batch: dict) -> dict:
        """As nnU-Net, and count the iteration."""
        return self._count(super().validation_step(batch))

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As nnU-Net, and end the progress of the validation."""
        self._end_progress()
        super().on_validation_epoch_end(val_outputs)

    def on_train_end(self) -> None:
        """As nnU-Net, and make the model independent of the hook."""
        super().on_train_end()
        if self.local_rank == 0:
            for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
                _make_portable(Path(self.output_folder) / name)

    def _count(self, output: dict) -> dict:
        if self._progress is not None:
            self._progress.step(float(output["loss"]))
        return output

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()
        self._progress = None


class _Progress:
    """A tqdm bar where standard error is a terminal, and a line at every quarter for the log."""

    def __init__(self, trainer: PluginTrainer, text: str, total: int, log: bool = True) -> None:
        self.trainer, self.text, self.total, self.log = trainer, text, total, log
        self.done, self.loss, self.start = 0, 0.0, perf_counter()
        shown = trainer.local_rank == 0 and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=text, unit="it", leave=False, dynamic_ncols=True, disable=not shown)

    def step(self, loss: float) -> None:
        self.done += 1
        self.loss += (loss - self.loss) / self.done
        self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
        self.bar.update()
        if self.log and self.done < self.total and self.done * 4 // self.total > (self.done - 1) * 4 // self.total:
            rate = self.done / (perf_counter() - self.start)
            line = f"{self.text}: {self.done}/{self.total} iterations, loss {self.loss:.4f}, {rate:.2f} iterations/s"
            self.trainer.print_to_log_file(line, also_print_to_console=self.bar.disable)

    def close(self) -> None:
        self.bar.close()


def _make_portable(checkpoint_file: Path) -> None:
    """Name nnU-Net's own trainer in a checkpoint, and keep ours under another key."""
    if not checkpoint_file.is_file():  # checkpointing was switched off
        return
    checkpoint: dict[str, Any] = torch.load(checkpoint_file, map_location="cpu", weights_only=False)
    checkpoint.setdefault(OWN_NAME_KEY, checkpoint["trainer_name"])  # --c on a finished training comes here again
    checkpoint["trainer_name"] = nnUNetTrainer.__name__
    partial = checkpoint_file.with_suffix(".partial")
    torch.save(checkpoint, partial)
    os.replace(partial, checkpoint_file)
