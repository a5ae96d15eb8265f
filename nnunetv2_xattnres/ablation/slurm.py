"""Submits cells to SLURM through submitit, one job per cell, and follows them."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from nnunetv2_xattnres.ablation.cell import run_cell
from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.listing import Events
from nnunetv2_xattnres.ablation.local import tell_end
from nnunetv2_xattnres.ablation.locks import Lock
from nnunetv2_xattnres.ablation.observe import Observation, job_name, live_jobs, note_job, observe
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.errors import InputError


@dataclass(frozen=True)
class Resources:
    """The resources that each job requests from SLURM.

    Args:
        gpus: GPUs per cell; 0 is the CPU, more than one uses nnU-Net's own DDP.
        partition: Partition; ``None`` is the cluster's default.
        minutes: Time limit. A training that reaches it is requeued and continues from its checkpoint.
        memory: Memory per job, such as ``32G``; ``None`` is the cluster's default.
        cpus: CPU cores per cell.
        extra: Further options of ``sbatch`` without the dashes, such as ``{"account": "lab"}``.
    """

    gpus: int = 1
    partition: str | None = None
    minutes: int = 24 * 60
    memory: str | None = None
    cpus: int = 8
    extra: tuple[tuple[str, str | bool], ...] = ()


class CellJob:
    """The function that a job runs. submitit pickles it, and calls :meth:`checkpoint` before it requeues the job."""

    def __init__(self, folder: Path, cell: Cell, gpus: int) -> None:
        self.folder, self.cell, self.gpus = folder, cell, gpus

    def __call__(self) -> State | None:
        """Run the cell; returns its state, ``None`` if another process holds it."""
        study = Study.load(self.folder)
        if study is None:
            raise InputError(f"{self.folder} is not a study")
        return run_cell(study, self.cell, Device(self.gpus), Event())

    def checkpoint(self) -> Any:
        """The same job again, which continues from nnU-Net's checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(CellJob(self.folder, self.cell, self.gpus))


def check_system(gpus: int) -> None:
    """Check that jobs with ``gpus`` GPUs can be submitted from this machine.

    Raises:
        InputError: the system is not Linux, submitit or SLURM is not installed, or the number of GPUs is negative.
    """
    if not sys.platform.startswith("linux") or not hasattr(signal, "SIGUSR2"):
        raise InputError("--executor slurm needs Linux: start it on the cluster, or use --executor local here")
    if gpus < 0:
        raise InputError(f"--gpus {gpus}: give the GPUs of a cell, or 0 for the CPU")
    if importlib.util.find_spec("submitit") is None:
        raise InputError("submitit is not installed: pip install 'nnunetv2-xattnres[slurm]'")
    if shutil.which("sbatch") is None:
        raise InputError(
            "sbatch is not installed here: start on a machine that submits to SLURM, or use --executor local"
        )


def make_executor(study: Study, resources: Resources) -> Any:
    """submitit's executor for SLURM, which writes its files into the study's folder.

    Raises:
        InputError: submitit or SLURM is not installed, or the number of GPUs is negative.
    """
    check_system(resources.gpus)
    from submitit import SlurmExecutor

    # a training may reach many time limits, and submitit counts each as a timeout
    executor = SlurmExecutor(study.folder / "slurm", max_num_timeout=1000)
    options: dict[str, Any] = {
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "signal_delay_s": 120,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, **dict(resources.extra)},
    }
    if resources.partition:
        options["partition"] = resources.partition
    if resources.gpus:
        options["gpus_per_node"] = resources.gpus
    executor.update_parameters(**options)
    if resources.memory:  # as the user typed it, in SLURM's units
        executor.parameters["mem"] = resources.memory
    return executor


def submit(study: Study, resources: Resources, events: Events) -> dict[Cell, State]:
    """Submit every cell that is not complete, not in the queue and not running; returns all states after that.

    A cell is marked before it is submitted, and its job has the cell's name. So if sbatch accepts the job and its
    answer is lost, this start or the next one finds the job in the queue.

    Raises:
        InputError: sbatch refuses a cell, SLURM does not list the present jobs, or the mark cannot be written. In the
            last two cases, nothing is submitted.
    """
    executor = make_executor(study, resources)
    states: dict[Cell, State] = {}
    with Lock(study.folder / "submit.lock"):  # of two starts at the same moment, the second sees the first one's jobs
        # cells without a file may be in the queue, too: a killed start leaves jobs, a restored folder lacks files
        for seen in observe(study, live_jobs()):
            states[seen.cell] = seen.state
            if seen.state in (State.COMPLETE, State.RUNNING, State.QUEUED):
                continue
            executor.parameters["job_name"] = job_name(study, seen.cell)
            note_job(study, seen.cell, None)
            how = "submitted again" if seen.record.get("started") else "submitted"
            try:
                number = executor.submit(CellJob(study.folder.resolve(), seen.cell, resources.gpus)).job_id
            except OSError as error:
                raise InputError(f"{seen.cell.name} cannot be submitted: {error}") from error
            except RuntimeError as error:  # from submitit, with the message of sbatch
                number = _accepted(study, seen.cell)
                if number is None:
                    raise InputError(f"sbatch refused {seen.cell.name}: {error}") from error
                how = "sbatch reported an error, but the queue has it:"
            note_job(study, seen.cell, number)
            events.say(seen.cell, f"{how} as job {number}")
            states[seen.cell] = State.QUEUED
    return states


def _accepted(study: Study, cell: Cell) -> str | None:
    """The job that SLURM accepted although sbatch failed, for example because its answer timed out."""
    name = job_name(study, cell)
    return next((number for number, job in live_jobs().items() if job.name == name), None)


def follow(study: Study, states: dict[Cell, State], events: Events, poll_seconds: float) -> None:
    """Print the events of the jobs until none is in the queue or running; Ctrl-C does not stop the jobs.

    While SLURM does not answer, its last list of jobs counts.

    Args:
        study: The study.
        states: The states that were already printed, as :func:`submit` returns them.
        events: Prints the events.
        poll_seconds: Interval between two queries of the files and the queue.
    """
    jobs, told = None, False
    while True:
        try:
            jobs, told = live_jobs(), False
        except InputError as error:
            if not told:
                print(f"{error}. Still waiting", flush=True)
                told = True
        if jobs is not None:
            now = observe(study, jobs)
            for seen in now:
                if seen.state != states.get(seen.cell):
                    _tell_change(study, seen, events)
            states = {seen.cell: seen.state for seen in now}
            if not {State.QUEUED, State.RUNNING} & set(states.values()):
                return
        time.sleep(poll_seconds)


def _tell_change(study: Study, new: Observation, events: Events) -> None:
    if new.state in (State.COMPLETE, State.FAILED):
        tell_end(study, new.cell, new.state, events)
    elif new.state == State.RUNNING:
        events.say(new.cell, f"running as job {new.job}" if new.job else f"running, {new.detail}")
    elif new.state == State.QUEUED:
        events.say(new.cell, f"back in the queue as job {new.job}")
    else:
        events.say(new.cell, "its job ended before it was complete, the next start submits it again")
