"""The base of all trainers. It adds progress, a seed, portable checkpoints and checks to nnU-Net's trainer."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, nn
from tqdm import tqdm

from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.catalogue import routings
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import AUGMENTATION_PROCESSES, TRAINER_KEY
from nnunetv2_xattnres.outputs import replace_file
from nnunetv2_xattnres.plans.architecture import architecture_of
from nnunetv2_xattnres.plans.files import refuse_foreign_weights
from nnunetv2_xattnres.plans.splits import check_fold, make_splits_if_missing
from nnunetv2_xattnres.system import environment_variable
from nnunetv2_xattnres.trainers.checkpoints import usable_checkpoint
from nnunetv2_xattnres.trainers.routing_log import RoutingLog
from nnunetv2_xattnres.trainers.seeding import (
    SEED_VARIABLE,
    Purpose,
    RepeatableLoader,
    in_processes,
    seed_everything,
    seed_of_environment,
)
from nnunetv2_xattnres.untrusted import check_architecture

OWN_NAME_KEY = "xattnres_trainer_name"


class PluginTrainer(nnUNetTrainer):
    """nnU-Net's trainer with its recipe unchanged.

    - Within each epoch, a terminal shows a progress bar, and a log gets one line per quarter.
    - The environment variable ``XATTNRES_SEED`` seeds python, numpy and torch by seed, process and epoch, and each
      batch by its iteration as well. So a continued training draws what an uninterrupted one would draw.
    - Every checkpoint names ``nnUNetTrainer`` as its trainer. The plans alone rebuild the network, so the model
      predicts without ``nnUNet_extTrainer``, also after an interrupted training.
    - A fold that is not in the split file is refused; nnU-Net would train it on a random split.
    - Every 50 epochs, the routing of a validation image goes into the log, ``routing.json`` and ``routing.svg``.
    - When a training starts, but not when it continues, a pretrained encoder gets the weights that the plans name.
    - The log names the routing and the numbers of readers and parameters. It warns of losses that are not finite. A
      training whose weights are not finite stops.

    Attributes:
        epochs, iterations, validation_iterations: Lengths that a subclass sets; ``None`` keeps nnU-Net's.
    """

    network: nn.Module
    num_epochs: int
    num_iterations_per_epoch: int
    num_val_iterations_per_epoch: int
    epochs: int | None = None
    iterations: int | None = None
    validation_iterations: int | None = None
    _restoring = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own signature
    ) -> None:
        refuse_foreign_weights(plans, f"The plans {plans['plans_name']}")
        plans = self.adapt_plans(deepcopy(plans), configuration, dataset_json)
        check_architecture(architecture_of(plans, configuration), f"{plans.get('plans_name')}, {configuration}")
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.epochs or self.num_epochs
        self.num_iterations_per_epoch = self.iterations or self.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = self.validation_iterations or self.num_val_iterations_per_epoch
        self._progress: _Progress | None = None
        self._routing_is_due = False
        self.configure_recipe()

    def adapt_plans(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """The plans for the training, before nnU-Net reads them. Subclasses change the configuration here.

        Args:
            plans: A copy of the content of the plans file.
            configuration: Name of the configuration to train.
            dataset_json: Content of ``dataset.json``.

        Raises:
            InputError: the configuration cannot be trained by this trainer.
        """
        return plans

    def configure_recipe(self) -> None:
        """Set learning rate, lengths and similar values, after nnU-Net has set its own.

        Raises:
            InputError: the configuration cannot be trained by this trainer.
        """

    def initialize(self) -> None:
        """Seed if a seed is set, build network, optimiser and loss as nnU-Net does, load the encoder's weights.

        Raises:
            InputError: the weights that the plans name cannot be loaded.
        """
        if self._seed(Purpose.BUILD):
            self.print_to_log_file(f"Seed {seed_of_environment()} ({SEED_VARIABLE})")
        super().initialize()
        if not self._restoring:
            load_pretrained_encoder(self._bare_network(), self.print_to_log_file)
        self._routing_log = RoutingLog(
            self._bare_network(), self.configuration_manager.configuration, Path(self.output_folder),
            self.print_to_log_file, self.logger.loggers,
        )  # fmt: skip

    def load_checkpoint(self, *arguments: Any, **named: Any) -> None:
        """As nnU-Net, whatever it calls its parameter; a training that continues needs no pretrained weights.

        Raises:
            InputError: the checkpoint is damaged, and no older one can take its place.
        """
        self._restoring = True
        chosen = [
            str(usable_checkpoint(Path(value), self.print_to_log_file)) if isinstance(value, str) else value
            for value in (*arguments, *named.values())
        ]
        super().load_checkpoint(*chosen[: len(arguments)], **dict(zip(named, chosen[len(arguments) :], strict=True)))

    def _seed(self, *key: int) -> bool:
        """Seed this process if a seed is set; each process draws different numbers. Returns whether a seed is set."""
        seed = seed_of_environment()
        if seed is not None:
            seed_everything(seed, self.local_rank, *key)
        return seed is not None

    def do_split(self) -> tuple[list[str], list[str]]:
        """As nnU-Net, but only for a fold that exists; a new split file is written completely or not at all.

        Raises:
            InputError: the split file does not have the fold, cannot be used, or cannot be written.
        """
        preprocessed = Path(self.preprocessed_dataset_folder_base)
        check_fold(self.fold, preprocessed)
        if self.fold != "all":
            make_splits_if_missing(preprocessed, Path(self.preprocessed_dataset_folder).name)
        training, validation = super().do_split()
        if self.fold == "all":  # nnU-Net lists them in the order of a set, which differs in each process
            return sorted(training), sorted(validation)
        return training, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        """As nnU-Net; with a seed, epoch and iteration seed each batch, and the batches come in order."""
        if seed_of_environment() is None:
            return super().get_dataloaders()
        # without workers, nnU-Net returns the loaders themselves
        workers = get_allowed_n_proc_DA()
        with environment_variable(AUGMENTATION_PROCESSES, "0"):
            train, val = (augmenter.data_loader for augmenter in super().get_dataloaders())
        return (
            self._in_processes(train, Purpose.TRAINING_BATCH, workers, cached=1),
            self._in_processes(val, Purpose.VALIDATION_BATCH, min(workers, max(1, workers // 2)), cached=1),
        )

    def _in_processes(self, loader: Any, purpose: Purpose, processes: int, *, cached: int) -> Any:
        """The loader's batches in order; with a seed, each is the same in every run."""
        training = purpose is Purpose.TRAINING_BATCH
        iterations = self.num_iterations_per_epoch if training else self.num_val_iterations_per_epoch
        seed = seed_of_environment()
        if seed is not None:
            loader = RepeatableLoader(loader, (seed, self.local_rank, purpose), iterations, self.current_epoch)
        return in_processes(loader, processes, cached=cached, pin_memory=self.device.type == "cuda")

    def on_train_start(self) -> None:
        """As nnU-Net, and log which network is trained."""
        super().on_train_start()
        architecture = self.configuration_manager.network_arch_class_name.rsplit(".", 1)[-1]
        routing = self.configuration_manager.network_arch_init_kwargs.get("routing")
        self.print_to_log_file(describe_network(self._bare_network(), architecture, routing))

    def _bare_network(self) -> nn.Module:
        """The network without the wrappers of DDP and ``torch.compile``."""
        network: Any = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)

    def on_train_epoch_start(self) -> None:
        """As nnU-Net, seeded by the epoch, and start the progress of the epoch."""
        self._seed(Purpose.EPOCH, self.current_epoch)
        super().on_train_epoch_start()
        self._progress = _Progress(self, f"Epoch {self.current_epoch}", self.num_iterations_per_epoch)

    def train_step(self, batch: dict) -> dict:
        """As nnU-Net, and count the iteration."""
        return self._count(super().train_step(batch))

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """As nnU-Net, and end the progress of the epoch.

        Raises:
            InputError: the weights are no longer finite, or no loss of the epoch is finite.
        """
        self._end_progress()
        super().on_train_epoch_end(train_outputs)
        self._check_finite([float(output["loss"]) for output in train_outputs])

    def _check_finite(self, losses: list[float]) -> None:
        lost = sum(not math.isfinite(loss) for loss in losses)
        if lost:
            self.print_to_log_file(
                f"WARNING: epoch {self.current_epoch}: the loss of {lost} of {len(losses)} iterations is not a finite "
                "number (NaN or infinite)"
            )
        # with mixed precision, single steps overflow and are skipped without harm
        damaged = not all(
            bool(value.isfinite().all())
            for value in self._bare_network().state_dict().values()
            if value.is_floating_point()
        )
        if damaged or (losses and lost == len(losses)):
            what = "the network's weights are no longer finite numbers" if damaged else "no loss was a finite number"
            message = (
                f"Epoch {self.current_epoch}: {what}, so nothing more can be learned, and the training stops. "
                f"The checkpoints in {self.output_folder} are from before: look for NaN in the images, or lower the "
                "learning rate, and train again (--c continues from checkpoint_latest.pth)"
            )
            self.print_to_log_file(f"ERROR: {message}", also_print_to_console=False)
            raise InputError(message)

    def on_validation_epoch_start(self) -> None:
        """As nnU-Net, and start the progress of the validation."""
        super().on_validation_epoch_start()
        self._routing_is_due = self.local_rank == 0 and self._routing_log.is_due(
            self.current_epoch, self.num_epochs - 1
        )
        self._progress = _Progress(
            self, f"Epoch {self.current_epoch} validation", self.num_val_iterations_per_epoch, log=False
        )

    def validation_step(self, batch: dict) -> dict:
        """As nnU-Net, and count the iteration."""
        self._note_routing(batch["data"])
        return self._count(super().validation_step(batch))

    def _note_routing(self, data: Tensor) -> None:
        """In an epoch whose routing is noted: that of the first image of the first batch."""
        if self._routing_is_due:
            self._routing_is_due = False
            self._routing_log.note(data[:1].to(self.device), self.current_epoch)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As nnU-Net, and end the progress of the validation."""
        self._end_progress()
        super().on_validation_epoch_end(val_outputs)

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net, but completely or not at all, and independent of the hook.

        ``trainer_name`` becomes ``nnUNetTrainer``; our name is kept under another key. ``--c`` uses ``-tr``.
        """
        partial = f"{filename}.partial"
        super().save_checkpoint(partial)
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        checkpoint: dict[str, Any] = torch.load(partial, map_location="cpu", weights_only=False)
        checkpoint[OWN_NAME_KEY] = checkpoint[TRAINER_KEY]
        checkpoint[TRAINER_KEY] = nnUNetTrainer.__name__
        torch.save(checkpoint, partial)
        replace_file(Path(partial), Path(filename))

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


def load_pretrained_encoder(network: nn.Module, log: Callable[[str], None]) -> None:
    """Load what ``encoder_weights`` in the plans names, and say so; nothing for a network without such an encoder.

    Args:
        network: Without the wrappers of DDP and ``torch.compile``.
        log: Takes a line for the log.

    Raises:
        InputError: the weights cannot be loaded; a training must not start then.
    """
    from nnunetv2_xattnres.architectures.encoder_weights import load_encoder_weights
    from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork

    if not isinstance(network, PretrainedEncoderNetwork):
        return
    load_encoder_weights(network)
    name = f"{type(network).__name__}'s encoder ({network.encoder_name})"
    if network.encoder_weights is None:
        log(f"{name} starts from random weights: encoder_weights is null in the plans")
    else:
        log(f"{name} loaded from {network.encoder_weights}")


def describe_network(network: nn.Module, architecture: str, routing: dict[str, Any] | None) -> str:
    """One line for the log: the routing, the readers (instances of ``XAttnRes``) and the parameters of a network."""
    readers = sum(isinstance(module, XAttnRes) for module in network.modules())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    text = f"{readers} XAttnRes readers, {parameters:,} parameters"
    if routing is None and readers == 0:
        return f"Network {architecture}, without XAttnRes: {text}"
    parsed = Routing.parse(routing)
    chosen = {key: getattr(parsed, key) for key in ("skip_connections", "encoder", "decoder")}
    name = next((name for name, values in routings().items() if values == chosen), "of its own")
    details = ", ".join(f"{key} {'yes' if value else 'no'}" for key, value in chosen.items())
    details += f", query_init {parsed.query_init}" + ", stock_start yes" * parsed.stock_start
    return f"Network {architecture}, routing {name} ({details}): {text}"
