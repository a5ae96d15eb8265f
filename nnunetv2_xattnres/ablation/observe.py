"""Reads the present state of a study's cells from its files, its locks and the queue of SLURM."""

from __future__ import annotations

import getpass
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import check_entries, read_object, write_json
from nnunetv2_xattnres.nnunet_layout import last_epoch

# a busy or restarting controller answers again after some seconds
SQUEUE_SECONDS, SQUEUE_WAITS = 20, (1.0, 4.0)
# a job number is 123, 123_4 (array) or 123+1 (heterogeneous); squeue also prints blank lines and headings
_JOB = re.compile(r"(\d[\d_+\[\]%,-]*)\s+([A-Z][A-Z_]+)(?:\s+(\S.*?))?\s*")


@dataclass(frozen=True)
class Observation:
    """One cell and its present state.

    Args:
        cell: The cell.
        state: Its state, from all sources together.
        record: Content of its ``cell.json``.
        job: Its SLURM job, if it is in the queue or running.
        dice: Mean Dice of a complete cell.
        detail: Further information: the epoch, the error, or the place where it runs.
    """

    cell: Cell
    state: State
    record: dict[str, Any]
    job: str | None = None
    dice: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """A SLURM job that has not ended.

    Args:
        state: Such as ``PENDING``, ``RUNNING`` or ``COMPLETING``.
        name: Its name; empty if squeue does not print it.
    """

    state: str
    name: str = ""


def observe(study: Study, jobs: Mapping[str, Job] | None = None) -> list[Observation]:
    """All cells of a study, from its files, the locks and (``jobs``) the cluster's queue.

    Args:
        study: The study.
        jobs: SLURM jobs that have not ended. ``None`` queries the cluster if an incomplete cell was, or perhaps was,
            submitted to it.

    Raises:
        InputError: the cluster does not answer.
    """
    submitted = {cell: _noted_job(study, cell) for cell in study.cells}
    if jobs is None:
        asked = any(noted is not None and not study.is_complete(cell) for cell, noted in submitted.items())
        jobs = live_jobs() if asked else {}
    by_name = {job.name: number for number, job in jobs.items()}
    found = []
    for cell, noted in submitted.items():
        number = (noted or {}).get("job")
        # sbatch may have accepted a job although its answer was lost
        found.append(_observe(study, cell, number if number in jobs else by_name.get(job_name(study, cell)), jobs))
    return found


def job_file(study: Study, cell: Cell) -> Path:
    """The file with the number of the SLURM job as which a cell was last submitted."""
    return study.cell_folder(cell) / "slurm.json"


def _noted_job(study: Study, cell: Cell) -> dict[str, Any] | None:
    path = job_file(study, cell)
    noted = read_object(path)
    check_entries(noted or {}, str(path), {}, optional={"job": str})
    return noted


def note_job(study: Study, cell: Cell, number: str | None) -> None:
    """Write the number of a cell's job to its file; ``None`` marks a cell just before it is submitted.

    Raises:
        InputError: it cannot be written.
    """
    write_json(job_file(study, cell), {"job": number, "name": job_name(study, cell)})


def job_name(study: Study, cell: Cell) -> str:
    """The name of a cell's jobs, unique among all studies of a user, by which the queue is searched."""
    folder = study.folder.resolve()
    place = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._@-]", "_", f"{cell.name}@{folder.name}-{place}")


def live_jobs() -> dict[str, Job]:
    """The user's SLURM jobs that have not ended, by their numbers; empty without SLURM.

    Raises:
        InputError: squeue failed or did not answer several times, so the jobs are unknown.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i %T %j"]
    why = ""
    for wait in (*SQUEUE_WAITS, None):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS)
        except subprocess.TimeoutExpired:
            why = f"nothing within {SQUEUE_SECONDS} s"
        else:
            if done.returncode == 0:
                lines = map(_JOB.fullmatch, map(str.strip, done.stdout.splitlines()))
                return {line[1]: Job(line[2], line[3] or "") for line in lines if line}
            why = done.stderr.strip() or f"exit code {done.returncode}"
        if wait is not None:
            time.sleep(wait)
    raise InputError(f"squeue does not answer: {why}. Which jobs are left is not known: try again when SLURM is back")


def _observe(study: Study, cell: Cell, job: str | None, jobs: Mapping[str, Job]) -> Observation:
    record = study.read_state(cell)
    if study.is_complete(cell):
        return Observation(cell, State.COMPLETE, record, dice=study.dice(cell))
    # a COMPLETING job may still be requeued: it counts as running until its processes have exited
    ending = job is not None and jobs[job].state == "COMPLETING"
    if study.lock_of(cell).held() or ending or (record["state"] == State.RUNNING and job is not None):
        where = f"job {job}" if job else f"{record.get('host')}, process {record.get('pid')}"
        detail = ", ".join(filter(None, [where, _epoch(study, cell)]))
        return Observation(cell, State.RUNNING, record, job, detail=detail)
    if job is not None:
        return Observation(cell, State.QUEUED, record, job, detail=f"job {job}")
    if record["state"] == State.FAILED:
        return Observation(cell, State.FAILED, record, detail=record.get("error") or "")
    if record.get("started"):  # its file says running, but no process holds its lock: it was killed
        return Observation(cell, State.INTERRUPTED, record, detail=_epoch(study, cell))
    return Observation(cell, State.PENDING, record)


def _epoch(study: Study, cell: Cell) -> str:
    """``epoch 12``: the last epoch in nnU-Net's newest log of the cell's training."""
    epoch = last_epoch(study.training_logs(cell))
    return "" if epoch is None else f"epoch {epoch}"
