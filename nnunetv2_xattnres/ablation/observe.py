"""What the files of a study say about its cells now: for the listing, and for deciding what to run."""

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

from nnunetv2_xattnres.ablation.cell import is_complete, lock_of
from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.study import COMPLETE, FAILED, PENDING, RUNNING, Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import read_object, write_json
from nnunetv2_xattnres.nnunet_layout import last_epoch

# a controller that is busy or restarts is back after moments
SQUEUE_SECONDS, SQUEUE_WAITS = 20, (1.0, 4.0)
QUEUED, INTERRUPTED = "queued", "interrupted"
# a job is 123, 123_4 of an array or 123+1 of a heterogeneous one; squeue also prints blank lines and headings
_JOB = re.compile(r"(\d[\d_+\[\]%,-]*)\s+([A-Z][A-Z_]+)(?:\s+(\S.*?))?\s*")


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


@dataclass(frozen=True)
class Job:
    """A SLURM job that is not over.

    Args:
        state: Such as ``PENDING``, ``RUNNING`` or ``COMPLETING``.
        name: Its name, empty if squeue gave none.
    """

    state: str
    name: str = ""


def observe(study: Study, jobs: Mapping[str, Job] | None = None) -> list[Observation]:
    """All cells of a study, from its files, the locks and (``jobs``) the cluster's queue.

    Args:
        study: The study.
        jobs: SLURM jobs that are not over; ``None`` asks the cluster, if a cell that is not complete was submitted to
            it, or was about to be.

    Raises:
        InputError: the cluster was asked and does not answer.
    """
    submitted = {cell: read_object(job_file(study, cell)) for cell in study.cells}
    if jobs is None:
        asked = any(noted is not None and not is_complete(study, cell) for cell, noted in submitted.items())
        jobs = live_jobs() if asked else {}
    by_name = {job.name: number for number, job in jobs.items()}
    found = []
    for cell, noted in submitted.items():
        number = (noted or {}).get("job")
        # sbatch may have accepted a job and not have said so
        found.append(_observe(study, cell, number if number in jobs else by_name.get(job_name(study, cell)), jobs))
    return found


def job_file(study: Study, cell: Cell) -> Path:
    """Where the SLURM job that a cell was last submitted as is noted."""
    return study.cell_folder(cell) / "slurm.json"


def note_job(study: Study, cell: Cell, number: str | None) -> None:
    """Note the job that a cell was submitted as; ``None`` before it is submitted.

    Raises:
        InputError: it cannot be written.
    """
    write_json(job_file(study, cell), {"job": number, "name": job_name(study, cell)})


def job_name(study: Study, cell: Cell) -> str:
    """The name of a cell's jobs, unique among all studies of a user: the queue can be asked for it."""
    folder = study.folder.resolve()
    place = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._@-]", "_", f"{cell.name}@{folder.name}-{place}")


def live_jobs() -> dict[str, Job]:
    """The user's SLURM jobs that are not over, by their numbers; none where there is no SLURM.

    Raises:
        InputError: squeue fails or hangs, several times: which jobs there are is not known then.
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
    if is_complete(study, cell):
        return Observation(cell, COMPLETE, record, dice=study.dice(cell))
    # a job that ends is not in the queue yet, nor gone: SLURM decides between the two when all its processes are gone
    ending = job is not None and jobs[job].state == "COMPLETING"
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
    epoch = last_epoch(study.training_logs(cell))
    return "" if epoch is None else f"epoch {epoch}"
