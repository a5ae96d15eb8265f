"""What the files of a study say about its cells now: for the listing, and for deciding what to run."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.ablation.cell import is_complete, lock_of
from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.study import COMPLETE, FAILED, PENDING, RUNNING, Study, read_json
from nnunetv2_xattnres.errors import InputError

# a controller that is busy or restarts is back after moments
SQUEUE_SECONDS, SQUEUE_WAITS = 20, (1.0, 4.0)
QUEUED, INTERRUPTED = "queued", "interrupted"
_EPOCH = re.compile(r": +Epoch (\d+) *$", re.MULTILINE)


@dataclass(frozen=True)
class Observation:
    """One cell as it is now.

    Args:
        cell: The cell.
        state: ``pending``, ``queued``, ``running``, ``interrupted``, ``failed`` or ``complete``.
        record: Content of its ``cell.json``.
        job: Its SLURM job, where that is in the queue or running.
        dice: Mean Dice of a complete cell.
        detail: What else a reader wants to know: the epoch, the error, where it runs.
    """

    cell: Cell
    state: str
    record: dict[str, Any]
    job: str | None = None
    dice: float | None = None
    detail: str = ""


def observe(study: Study, jobs: Mapping[str, str] | None = None) -> list[Observation]:
    """All cells of a study, from its files, the locks and (``jobs``) the cluster's queue.

    Args:
        study: The study.
        jobs: SLURM jobs that are not over, and their state; ``None`` asks the cluster, if a cell that is not complete
            was submitted to it.

    Raises:
        InputError: the cluster was asked and does not answer.
    """
    submitted = {cell: (read_json(job_file(study, cell)) or {}).get("job") for cell in study.cells}
    if jobs is None:
        asked = any(job and not is_complete(study, cell) for cell, job in submitted.items())
        jobs = live_jobs() if asked else {}
    return [_observe(study, cell, job, jobs) for cell, job in submitted.items()]


def job_file(study: Study, cell: Cell) -> Path:
    """Where the SLURM job that a cell was last submitted as is noted."""
    return study.cell_folder(cell) / "slurm.json"


def live_jobs() -> dict[str, str]:
    """The user's SLURM jobs that are not over, and their state; none where there is no SLURM.

    Raises:
        InputError: squeue fails or hangs, several times: which jobs there are is not known then.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i %T"]
    why = ""
    for wait in (*SQUEUE_WAITS, None):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS)
        except subprocess.TimeoutExpired:
            why = f"nothing within {SQUEUE_SECONDS} s"
        else:
            if done.returncode == 0:
                return dict(line.split() for line in done.stdout.splitlines())
            why = done.stderr.strip() or f"exit code {done.returncode}"
        if wait is not None:
            time.sleep(wait)
    raise InputError(f"squeue does not answer: {why}. Which jobs are left is not known: try again when SLURM is back")


def _observe(study: Study, cell: Cell, job: str | None, jobs: Mapping[str, str]) -> Observation:
    record = study.read_state(cell)
    job = job if job in jobs else None
    if is_complete(study, cell):
        scores = read_json(study.scores_file(cell)) or {}
        return Observation(cell, COMPLETE, record, dice=scores.get("mean", {}).get("dice"))
    # a job that ends is not in the queue yet, nor gone: SLURM decides between the two when all its processes are gone
    ending = job is not None and jobs[job] == "COMPLETING"
    if lock_of(study, cell).held() or ending or (record["state"] == RUNNING and job is not None):
        where = f"job {job}" if job else f"{record.get('host')}, process {record.get('pid')}"
        return Observation(cell, RUNNING, record, job, detail=", ".join(filter(None, [where, _epoch(study, cell)])))
    if job is not None:
        return Observation(cell, QUEUED, record, job, detail=f"job {job}")
    if record["state"] == FAILED:
        return Observation(cell, FAILED, record, detail=record.get("error") or "")
    if record.get("started"):  # running according to its file, but nobody is: it was killed
        return Observation(cell, INTERRUPTED, record, detail=_epoch(study, cell))
    return Observation(cell, PENDING, record)


def _epoch(study: Study, cell: Cell) -> str:
    """``epoch 12``: the last epoch that nnU-Net's newest log of the cell's training has begun."""
    logs = study.training_logs(cell)
    if not logs:
        return ""
    with logs[-1].open("rb") as file:
        file.seek(max(0, logs[-1].stat().st_size - 16384))
        epochs = _EPOCH.findall(file.read().decode("utf-8", errors="replace"))
    return f"epoch {epochs[-1]}" if epochs else ""
