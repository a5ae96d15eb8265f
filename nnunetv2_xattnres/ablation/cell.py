"""Runs one cell from training to scores, and continues one that was interrupted."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

from nnunetv2_xattnres.ablation.commands import (
    Device,
    as_typed,
    environment,
    evaluate_command,
    executable,
    predict_command,
    test_set,
    train_command,
    validation_labels,
)
from nnunetv2_xattnres.ablation.digests import check_unchanged
from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.locks import Lock
from nnunetv2_xattnres.ablation.process import CommandFailed, Stopped, reason, run_logged
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import read_object
from nnunetv2_xattnres.nnunet_layout import DEBUG, TEST_IMAGES, VALIDATION
from nnunetv2_xattnres.plans.files import read_dataset_json, read_plans
from nnunetv2_xattnres.system import version_of

# commands that only test the lock hold it for a moment
PATIENCE_SECONDS = 3.0
# interval at which the hours are written: a kill loses no more
NOTE_SECONDS = 60.0
_PACKAGES = ("nnunetv2", "torch", "nnunetv2-xattnres")


def run_cell(
    study: Study, cell: Cell, device: Device, stop: Event, started: Callable[[], None] = lambda: None
) -> State | None:
    """Train, predict and score one cell, unless it is complete or another process works on it.

    Args:
        study: The study, saved.
        cell: One of its cells.
        device: What to run on.
        stop: Stops the work when set; a later call continues it.
        started: Called once this process holds the cell's lock.

    Returns:
        The cell's new state, or ``None`` if another process holds it. A failure is a state with its reason in
        ``cell.json``, never an exception.

    Raises:
        InputError, OSError: the lock or ``cell.json`` cannot be read or written, for example on a full disk. Other
            cells can continue.
    """
    lock = study.lock_of(cell)
    if not lock.acquire(PATIENCE_SECONDS):
        return None
    try:
        if study.is_complete(cell):
            return State.COMPLETE
        started()
        return _Work(study, cell, device, stop, lock).run()
    finally:
        lock.release()


class _Work:
    """The steps of one cell, and the record of its commands."""

    def __init__(self, study: Study, cell: Cell, device: Device, stop: Event, lock: Lock) -> None:
        self.study, self.cell, self.device, self.stop, self.lock = study, cell, device, stop, lock
        self.folder = study.cell_folder(cell)
        self.state = study.read_state(cell)
        self.hours = self.state.get("hours") or 0.0
        self.begin = self.noted = monotonic()

    def run(self) -> State:
        self.update(
            state=State.RUNNING,
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            device=str(self.device),
            versions=_versions(),
            started=self.state.get("started") or _now(),
            finished=None,
            error=None,
        )
        try:
            self.steps()
        except Stopped:
            return self.end(State.PENDING, interrupted=_now())
        except Exception as error:  # the other cells continue, whatever the error
            return self.fail(error)
        except BaseException:  # the cluster's signal handler ends this process: a later start continues
            self.end(State.PENDING, interrupted=_now())
            raise
        return self.end(State.COMPLETE)

    def steps(self) -> None:
        self.check()
        command = train_command(self.study, self.cell, self.device)
        if command:
            self.execute(command)
        self.update(device=self.device_name())
        predictions = self.folder / "predictions"
        shutil.rmtree(predictions, ignore_errors=True)
        test = test_set(self.study)
        if test:
            images, reference = test
            self.execute(predict_command(self.study, self.cell, self.device, images))
        else:
            reference = validation_labels(self.study)
            self.copy_validation(predictions)
        self.execute(evaluate_command(self.study, self.cell, reference, part=test is None))
        self.check()  # nnU-Net reads the split again for the validation
        self.update(reference=str(reference), predicted=TEST_IMAGES if test else VALIDATION)

    def check(self) -> None:
        """Check that the cell is still comparable to the others."""
        if self.study.digests:
            check_unchanged(self.study, read_plans(self.study.dataset, self.study.plans), [self.cell.configuration])

    def execute(self, command: list[str]) -> None:
        variables = environment(self.study, self.cell, self.device)
        line = as_typed(command, variables)
        self.update(commands=[*self.state.get("commands", []), line])
        log = self.study.log_file(self.cell)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n{_now()} $ {line}\n")
        words = [executable(command[0]), *command[1:]]
        code = run_logged(words, variables, log, self.stop, self.lock.descriptor, self.note)
        self.update()
        if code:
            raise CommandFailed(f"{command[0]} {reason(code, log)}")

    def copy_validation(self, predictions: Path) -> None:
        """Copy the predictions of the validation cases, which nnU-Net made at the end of the training."""
        ending = read_dataset_json(self.study.dataset)["file_ending"]
        predictions.mkdir(parents=True)
        for path in sorted((self.study.fold_folder(self.cell) / VALIDATION).glob(f"*{ending}")):
            shutil.copyfile(path, predictions / path.name)

    def device_name(self) -> str:
        """The GPU's name, from nnU-Net's own record of the training."""
        try:
            debug = read_object(self.study.fold_folder(self.cell) / DEBUG) or {}
        except InputError:
            debug = {}
        count = f"{self.device.gpus} x " if self.device.gpus > 1 else ""
        return f"{count}{debug['gpu_name']}" if self.device.gpus and "gpu_name" in debug else str(self.device)

    def note(self) -> None:
        """Write the hours to ``cell.json`` at intervals."""
        if monotonic() - self.noted >= NOTE_SECONDS:
            with suppress(InputError):  # a file system that fails for a moment must not end a training
                self.update()

    def update(self, **values: Any) -> None:
        self.noted = monotonic()
        hours = round(self.hours + (self.noted - self.begin) / 3600, 5)
        self.state = self.study.update_state(self.cell, hours=hours, **values)

    def fail(self, error: Exception) -> State:
        text = str(error) if isinstance(error, (CommandFailed, InputError)) else f"{type(error).__name__}: {error}"
        try:
            return self.end(State.FAILED, error=text)
        except InputError as second:
            raise InputError(text, [second.summary]) from error

    def end(self, state: State, **values: Any) -> State:
        self.update(state=state, finished=_now() if state != State.PENDING else None, **values)
        return state


def _now() -> str:
    return datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {package: version_of(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
