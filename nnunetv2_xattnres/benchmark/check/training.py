"""A short training by nnU-Net's own classes on drawn frames, in the folders that nnU-Net's variables name."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from nnunetv2_xattnres.benchmark.check.process import Report, WrongResult

EPOCHS = 2  # the first one compiles, the second one is the one to look at


def prepare(report: Report, frames: int, side: int, processes: int) -> None:
    """Draw ``frames`` of ``side`` pixels, and let nnU-Net plan and preprocess them."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    from nnunetv2_xattnres.demo.phantom import write_dataset

    write_dataset(Path(os.environ["nnUNet_raw"]), training=frames, test=0, size=side)
    extract_fingerprints([1], num_processes=processes, show_progress_bar=False)
    plan_experiments([1])
    preprocess([1], configurations=["2d"], num_processes=[processes], show_progress_bar=False)


def train(report: Report, trainer: str, device: str, kernel: str | None, batch: int, iterations: int) -> None:
    """Train two epochs of ``iterations`` and report ``epochs`` (seconds), ``losses`` and ``validation`` losses.

    Args:
        report: Takes the figures.
        trainer: ``nnUNetTrainer`` or one of ours.
        device: ``cuda`` or ``cpu``.
        kernel: The form to force; ``None`` for the device's own.
        batch: Images per batch.
        iterations: Per epoch; a fifth of them validates.

    Raises:
        WrongResult: a loss is not a finite number.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_xattnres import trainers
    from nnunetv2_xattnres.architectures import use_kernel
    from nnunetv2_xattnres.demo.phantom import DATASET

    folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET
    plans, dataset = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    plans["configurations"]["2d"]["batch_size"] = batch
    kind = nnUNetTrainer if trainer == nnUNetTrainer.__name__ else getattr(trainers, trainer)
    with use_kernel(kernel):
        training = kind(plans, "2d", 0, dataset, torch.device(device))
        training.num_epochs = EPOCHS
        training.num_iterations_per_epoch = iterations
        training.num_val_iterations_per_epoch = max(1, iterations // 5)
        if device == "cuda":  # as nnU-Net's command
            torch.backends.cudnn.benchmark = True
        training.run_training()
    starts, ends, losses, validation = (
        [float(value) for value in training.logger.get_value(name, step=None)]
        for name in ("epoch_start_timestamps", "epoch_end_timestamps", "train_losses", "val_losses")
    )
    epochs = [end - start for start, end in zip(starts, ends, strict=True)]
    report(epochs=epochs, losses=losses, validation=validation, patch=plans["configurations"]["2d"]["patch_size"])
    if not all(map(math.isfinite, [*losses, *validation])):
        raise WrongResult(f"a loss is not a finite number: {losses}, in validation {validation}")
