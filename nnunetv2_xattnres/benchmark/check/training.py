"""Runs a short training with nnU-Net's own classes on drawn frames, in the folders of nnU-Net's variables."""

from __future__ import annotations

import json
import math
from pathlib import Path

from nnunetv2_xattnres.benchmark.check.process import Report, WrongResult

EPOCHS = 2  # the first one compiles, while other items are prepared; the second one is measured

SAMPLES = 10**5  # of intensities; nnU-Net would draw 10**8, for a minute, and colour images do not use them


def prepare(report: Report, frames: int, side: int, batch: int, processes: int) -> None:
    """Draw ``frames`` of ``side`` pixels, let nnU-Net plan and preprocess them, and set the batch in its plans."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    from nnunetv2_xattnres.demo.phantom import DATASET, write_dataset
    from nnunetv2_xattnres.plans.splits import make_splits_if_missing

    write_dataset(Path(nnUNet_raw), training=frames, test=0, size=side)
    extractor = DatasetFingerprintExtractor(1, processes)
    extractor.num_foreground_voxels_for_intensitystats = SAMPLES
    extractor.run()
    plan_experiments([1])
    preprocess([1], configurations=["2d"], num_processes=[processes], show_progress_bar=False)
    file = Path(nnUNet_preprocessed) / DATASET / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["2d"]["batch_size"] = batch  # nnU-Net would choose 5 % of the few frames
    file.write_text(json.dumps(plans), encoding="utf-8")
    # now, because the trainings begin at the same time, and nnU-Net's own writer is not made for that
    make_splits_if_missing(file.parent, plans["configurations"]["2d"]["data_identifier"])
    report(shape=[batch, 3, *plans["configurations"]["2d"]["patch_size"]])


def train(report: Report, trainer: str, device: str, kernel: str | None, iterations: int) -> None:
    """Train two epochs of ``iterations``, the second one in its turn; report the seconds of each, losses and forms.

    Args:
        report: Gets the figures.
        trainer: Name of the trainer, as for ``nnUNetv2_train -tr``.
        device: ``cuda`` or ``cpu``.
        kernel: The form to force; ``None`` is the device's default.
        iterations: Training iterations per epoch; a fifth as many are for validation.

    Raises:
        WrongResult: a loss is not a finite number.
    """
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunetv2_xattnres.architectures import use_kernel
    from nnunetv2_xattnres.architectures.kernels.available import reader_forms
    from nnunetv2_xattnres.demo.phantom import DATASET

    with use_kernel(kernel):
        training = get_trainer_from_args(DATASET, "2d", 0, trainer, device=torch.device(device))
        training.num_epochs = EPOCHS
        training.num_iterations_per_epoch = iterations
        training.num_val_iterations_per_epoch = max(1, iterations // 5)
        torch.backends.cudnn.benchmark = device == "cuda"  # as nnU-Net's command
        start, paused = training.on_epoch_start, []

        def start_epoch() -> None:
            paused.append(report.paused())
            if training.current_epoch == EPOCHS - 1:
                if device == "cuda":
                    torch.cuda.empty_cache()  # for those that are prepared meanwhile
                report.wait_for_turn()
            start()

        training.on_epoch_start = start_epoch
        training.run_training()
    starts, ends, losses, validation = (
        [float(value) for value in training.logger.get_value(name, step=None)]
        for name in ("epoch_start_timestamps", "epoch_end_timestamps", "train_losses", "val_losses")
    )
    epochs = [end - begin for begin, end in zip(starts, ends, strict=True)]
    epochs[0] -= paused[1] - paused[0]
    report(epochs=epochs, losses=losses, validation=validation, forms=reader_forms())
    if not all(map(math.isfinite, [*losses, *validation])):
        raise WrongResult(f"a loss is not a finite number: {losses}, in validation {validation}")
