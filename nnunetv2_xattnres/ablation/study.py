"""The folder of a study: its grid and the state of each cell, in files that are written completely or not at all.

``study.json`` holds the grid. Each cell has a folder with ``cell.json`` (its state), ``log.txt``, ``predictions/`` and
``scores.json``; each seed has its own nnU-Net results folder, because nnU-Net's folder names have no seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.locks import Lock
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.files import SCORE_AGAIN
from nnunetv2_xattnres.json_files import check_entries, check_format, read_object, write_json
from nnunetv2_xattnres.nnunet_layout import fold_folder, training_logs

FORMAT = 1  # of study.json and cell.json
_ADVICE = "repair it, or give another folder with --output"
_ENTRIES: Mapping[str, type] = {
    "dataset": str, "dataset_json": str, "plans": str, "base_plans": str, "configuration": str, "trainer": str,
    "cells": list,
}  # fmt: skip
# files of earlier versions lack them
_ENTRIES_OF_LATER: Mapping[str, type] = {
    "convention": str, "tolerance": list, "missing": str, "digests": dict, "data": dict,
}  # fmt: skip
# of cell.json; a pending cell lacks them
_STATE_ENTRIES: Mapping[str, type] = {
    "hours": float, "error": str, "started": str, "finished": str, "commands": list, "versions": dict, "reference": str,
}  # fmt: skip


class State(str, Enum):
    """The states of a cell, in the order of a summary; ``cell.json`` never has ``queued`` and ``interrupted``."""

    COMPLETE = "complete"
    RUNNING = "running"
    QUEUED = "queued"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    PENDING = "pending"

    __str__ = str.__str__  # else printed as State.COMPLETE


@dataclass
class Study:
    """A study and its folder.

    Args:
        folder: The folder with all files of the study.
        dataset: Name of the data set, such as ``Dataset011_ClinicDB``.
        dataset_json: The data set's ``dataset.json``.
        plans: Name of the plans file that holds the variants.
        base_plans: Name of the plans from which the variants were made.
        configuration: The configuration that the variants inherit from.
        trainer: The trainer that the user chose.
        cells: All cells to run.
        convention: How predictions are scored, ``nnunet`` or ``transunet``.
        tolerance: Tolerances of NSD as ``evaluate`` takes them; empty: no NSD.
        missing: HD95 of a class that only one side has, ``undefined`` or ``worst``.
        digests: Name of each configuration to its digest when the study was planned.
        data: The same for the shared data: split, labels, images, test set.
    """

    folder: Path
    dataset: str
    dataset_json: str
    plans: str
    base_plans: str
    configuration: str
    trainer: str
    cells: list[Cell] = field(default_factory=list)
    convention: str = "nnunet"
    tolerance: list[str] = field(default_factory=list)
    missing: str = "undefined"
    digests: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Study | None:
        """The study in a folder, or ``None``."""
        path = folder / "study.json"
        content = read_object(path)
        if content is None:
            return None
        check_format(content, path, FORMAT)
        check_entries(content, str(path), _ENTRIES, _ADVICE, optional=_ENTRIES_OF_LATER)
        values = {name: content[name] for name in (*_ENTRIES, *_ENTRIES_OF_LATER) if content.get(name) is not None}
        cells = [Cell.from_json(cell, f"{path}, cell {number}") for number, cell in enumerate(content["cells"])]
        return cls(folder, **{**values, "cells": cells})

    def save(self) -> None:
        """Write ``study.json``, and a pending state for each cell that has none.

        Raises:
            InputError: the folder cannot be created or written to.
        """
        content = {
            "format": FORMAT,
            "dataset": self.dataset,
            "dataset_json": self.dataset_json,
            "plans": self.plans,
            "base_plans": self.base_plans,
            "configuration": self.configuration,
            "trainer": self.trainer,
            "convention": self.convention,
            **({"tolerance": self.tolerance} if self.tolerance else {}),
            **({"missing": self.missing} if self.missing != "undefined" else {}),
            "digests": self.digests,
            "data": self.data,
            "folds": list(dict.fromkeys(cell.fold for cell in self.cells)),
            "seeds": list(dict.fromkeys(cell.seed for cell in self.cells)),
            "cells": [cell.to_json() for cell in self.cells],
        }
        try:
            write_json(self.folder / "study.json", content)
            for cell in self.cells:
                if not self.state_file(cell).exists():
                    write_json(self.state_file(cell), {"format": FORMAT, "state": State.PENDING})
        except InputError as error:
            raise self._unwritable(error.summary) from error

    def make_folder(self) -> None:
        """Create the folder, and check that files can be written to it, before anything is written elsewhere.

        Raises:
            InputError: the folder cannot be created or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise self._unwritable(str(error)) from error

    def _unwritable(self, reason: str) -> InputError:
        return InputError(f"the study cannot be written to {self.folder}: give another folder with --output", [reason])

    def cell_folder(self, cell: Cell) -> Path:
        """The folder of the cell's state, log, predictions and scores."""
        return self.folder / "cells" / cell.name

    def lock_of(self, cell: Cell) -> Lock:
        """The lock that a process must hold to work on the cell."""
        return Lock(self.cell_folder(cell) / "cell.lock")

    def is_complete(self, cell: Cell) -> bool:
        """Whether the cell has its scores."""
        return self.read_state(cell)["state"] == State.COMPLETE and self.scores_file(cell).is_file()

    def state_file(self, cell: Cell) -> Path:
        """``cell.json`` of a cell."""
        return self.cell_folder(cell) / "cell.json"

    def log_file(self, cell: Cell) -> Path:
        """``log.txt`` of a cell, which its first command creates."""
        return self.cell_folder(cell) / "log.txt"

    def scores_file(self, cell: Cell) -> Path:
        """``scores.json`` of a cell."""
        return self.cell_folder(cell) / "scores.json"

    def dice(self, cell: Cell) -> float | None:
        """Mean Dice of a complete cell, ``None`` if it is not defined.

        Raises:
            InputError: its scores cannot be read.
        """
        scores = read_object(self.scores_file(cell), SCORE_AGAIN, entries={"mean": dict})
        if scores is None:
            return None
        where = f"{self.scores_file(cell)}, mean,"
        check_entries(scores["mean"], where, {}, SCORE_AGAIN, optional={"dice": float})
        return scores["mean"].get("dice")

    def read_state(self, cell: Cell) -> dict[str, Any]:
        """Content of ``cell.json``."""
        path = self.state_file(cell)
        state = read_object(path, entries={"state": str}) or {"state": State.PENDING}
        check_format(state, path, FORMAT)
        check_entries(state, str(path), {}, optional=_STATE_ENTRIES)
        return state

    def update_state(self, cell: Cell, **values: Any) -> dict[str, Any]:
        """Change entries of ``cell.json``; the caller must hold the cell's lock.

        Raises:
            InputError: it cannot be written.
        """
        state = {"format": FORMAT, **self.read_state(cell), **values}
        write_json(self.state_file(cell), state)
        return state

    def results(self, cell: Cell) -> Path:
        """``nnUNet_results`` of the cell's seed."""
        return self.folder / "results" / f"seed_{cell.seed}"

    def fold_folder(self, cell: Cell) -> Path:
        """The folder of the cell's checkpoints, logs and validation."""
        return fold_folder(self.results(cell), self.dataset, cell.trainer, self.plans, cell.configuration, cell.fold)

    def training_logs(self, cell: Cell) -> list[Path]:
        """nnU-Net's logs of the cell's training, oldest first."""
        return training_logs(self.fold_folder(cell))
