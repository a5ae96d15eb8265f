"""Looking at a study: at its locks without being in the way, and at a queue that does not always answer."""

import dataclasses
import fcntl
import os
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest

from nnunetv2_xattnres.ablation import command, locks, observe, slurm
from nnunetv2_xattnres.ablation.cell import run_cell
from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.listing import Events
from nnunetv2_xattnres.ablation.locks import Lock
from nnunetv2_xattnres.ablation.slurm import Resources, follow, submit
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import write_json


@pytest.fixture
def study(stubs):
    """A study of two cells that someone has begun to work on before."""
    study = stubs.study("baseline", "both")
    for cell in study.cells:
        lock = study.lock_of(cell)
        assert lock.acquire()
        lock.release()
    return study


def states(study, jobs=None):
    return [seen.state for seen in observe.observe(study, jobs)]


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_seen_until_it_is_given_up(tmp_path):
    lock, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert not lock.held() and not lock.path.exists()  # looking makes no file
    assert lock.acquire() and other.held() and not other.acquire()
    lock.release()
    assert not other.held() and other.acquire()


def test_two_looks_do_not_see_each_other(study, monkeypatch):
    lock, inner = study.lock_of(study.cells[0]), []
    real = fcntl.flock

    def look_meanwhile(descriptor, kind):
        monkeypatch.setattr(fcntl, "flock", real)
        real(descriptor, kind)
        inner.append(Lock(lock.path).held())

    monkeypatch.setattr(fcntl, "flock", look_meanwhile)
    assert not lock.held() and inner == [False]


def test_a_cell_that_is_looked_at_runs_all_the_same(study, monkeypatch):
    real, looking = fcntl.flock, []

    def look(descriptor, kind):
        """What a look does, seen by a job that begins at that moment; it is over when the job tries again."""
        if kind & fcntl.LOCK_EX and not looking:
            looking.append(os.open(study.lock_of(study.cells[0]).path, os.O_RDONLY))
            real(looking[0], fcntl.LOCK_SH)
        return real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", look)
    monkeypatch.setattr(locks, "sleep", lambda _: os.close(looking[0]))
    assert run_cell(study, study.cells[0], Device(), command.Event()) == "complete"
    assert len(looking) == 1


def test_a_study_that_one_may_only_read_can_be_looked_at(study, monkeypatch, capsys):
    real = os.open

    def read_only(path, flags, *arguments, **options):  # root may write whatever the mode says
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: read_only(path, os.O_WRONLY))
    assert main(["ablate", "1", "--status", "--output", str(study.folder)]) == 0
    assert "2 cells: 2 pending" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"cannot be written to .* --output[\s\S]*Permission denied"):
        study.save()


# --- the queue -------------------------------------------------------------------------------------------------------


@pytest.fixture
def squeue(study, stubs, monkeypatch):
    """Both cells are submitted, as jobs 77 and 78; the function that this returns says what squeue does."""
    for number, cell in enumerate(study.cells):
        write_json(observe.job_file(study, cell), {"job": str(77 + number)})
    monkeypatch.setattr(observe, "SQUEUE_WAITS", (0, 0))
    monkeypatch.setenv("PATH", str(stubs.commands), prepend=os.pathsep)
    asked = stubs.root / "asked"

    def does(*lines):
        path = stubs.commands / "squeue"
        path.write_text("\n".join(["#!/bin/sh", f"echo >>'{asked}'", *lines, ""]))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return asked

    return does


FAILS = ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2", "exit 1")
BOTH = ("echo 77 RUNNING", "echo 78 PENDING")


def test_a_queue_that_answers_at_the_third_time_is_heard(study, squeue):
    asked = squeue(f'[ "$(wc -l <"{study.folder.parent}/asked")" -ge 3 ] || {{ {"; ".join(FAILS)}; }}', *BOTH)
    assert observe.live_jobs() == {"77": observe.Job("RUNNING"), "78": observe.Job("PENDING")}
    assert len(asked.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("lines", "seconds", "why"),
    [(FAILS, 20, "Unable to contact slurm controller"), (("exec sleep 60",), 0.1, "nothing within 0.1 s")],
)
def test_a_queue_that_fails_or_hangs_is_not_an_empty_one(study, squeue, monkeypatch, capsys, lines, seconds, why):
    squeue(*lines)
    monkeypatch.setattr(observe, "SQUEUE_SECONDS", seconds)
    assert main(["ablate", "1", "--status", "--output", str(study.folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: squeue does not answer: ") and why in error


def test_nothing_is_submitted_while_the_queue_is_not_known(study, squeue, monkeypatch):
    squeue(*FAILS)
    executor = Mock()
    monkeypatch.setattr(slurm, "make_executor", lambda *_: executor)
    with pytest.raises(InputError, match="squeue does not answer"):
        submit(study, Resources(), Events(2, 0))
    executor.submit.assert_not_called()


def test_a_complete_study_needs_no_queue(study, squeue):
    squeue(*FAILS)
    for cell in study.cells:
        assert run_cell(study, cell, Device(), command.Event()) == "complete"
    assert states(study) == ["complete", "complete"]


def test_following_goes_on_with_the_jobs_that_were_known_last(study, squeue, monkeypatch, capsys):
    squeue(*FAILS)  # not even the first look is answered
    then = [BOTH, FAILS, FAILS, ("echo 78 RUNNING",), ("exit 0",)]
    looked_up = []

    def looked(study, jobs):
        looked_up.append(sorted(jobs))
        return observe.observe(study, jobs)

    monkeypatch.setattr(slurm, "observe", looked)
    # what happens between one look and the next; subprocess sleeps by the same function
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: squeue(*then.pop(0)) if seconds == 5 else None)
    follow(study, dict.fromkeys(study.cells, "queued"), Events(2, 0), 5)
    assert then == [] and looked_up == [["77", "78"], ["77", "78"], ["77", "78"], ["78"], []]
    output = capsys.readouterr().out
    assert output.count("squeue does not answer") == 2 and output.count("the next start submits it again") == 2


@pytest.mark.parametrize(("detach", "code"), [([], 1), (["--detach"], 0)])
def test_following_that_ends_with_cells_to_do_is_no_success(study, squeue, monkeypatch, detach, code):
    squeue("exit 0")
    monkeypatch.setattr(command, "_plan", lambda args, folder: study)
    monkeypatch.setattr(slurm, "check_system", lambda gpus: None)
    monkeypatch.setattr(slurm, "submit", lambda *_: dict.fromkeys(study.cells, "queued"))
    arguments = ["ablate", "1", "--executor", "slurm", "--output", str(study.folder), *detach]
    assert main(arguments) == code and states(study) == ["pending", "pending"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "slurm", "--poll", "-1"], ["--poll -1: "]),
        (["--executor", "slurm", "--poll", "nan"], ["--poll nan: "]),
        (
            ["--executor", "slurm", "--time", "-5", "--cpus", "0", "--sbatch", "=x", "--sbatch=--account=lab"],
            ["--time -5: ", "--cpus 0: ", "--sbatch =x: ", "--sbatch --account=lab: "],
        ),
        (["--detach", "--time", "5"], ["--time, --detach: for --executor slurm only"]),
    ],
)
def test_options_of_slurm_are_checked_before_anything_is_planned(study, monkeypatch, capsys, options, said):
    plan = Mock()
    monkeypatch.setattr(command, "_plan", plan)
    monkeypatch.setattr(slurm, "check_system", lambda gpus: None)
    assert main(["ablate", "1", "--output", str(study.folder), *options]) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in said) and not plan.called


def test_a_negative_number_of_gpus_is_refused(study):
    with pytest.raises(InputError, match="--gpus -1"):
        submit(study, Resources(gpus=-1), Events(2, 0))


@pytest.mark.parametrize("line", ["", "   ", "CLUSTER: alpha", "slurm_load_jobs: retrying", "JOBID STATE NAME"])
def test_lines_of_squeue_that_are_no_jobs_are_skipped(study, squeue, line):
    squeue(f"echo '{line}'", "echo 101 PENDING", "echo '102_3 RUNNING a name'")
    jobs = observe.live_jobs()
    assert jobs == {"101": observe.Job("PENDING"), "102_3": observe.Job("RUNNING", "a name")}


class Cluster:
    """Stands for submitit's executor and its cluster, whose answer may be lost."""

    def __init__(self, squeue, answer):
        self.squeue, self.answer, self.parameters, self.names = squeue, answer, {}, []
        self.squeue("exit 0")

    def submit(self, job):
        self.names.append(self.parameters["job_name"])
        self.squeue(*(f"echo '{number} PENDING {name}'" for number, name in enumerate(self.names, 201)))
        if self.answer:
            raise self.answer
        return Mock(job_id=str(200 + len(self.names)))


LOST = RuntimeError("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")


@pytest.mark.parametrize(("answer", "raised"), [(LOST, None), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_cell_is_submitted_once_where_the_answer_of_sbatch_is_lost(study, squeue, monkeypatch, answer, raised):
    for cell in study.cells:
        observe.job_file(study, cell).unlink()
    cluster = Cluster(squeue, answer)
    monkeypatch.setattr(slurm, "make_executor", lambda *_: cluster)
    if raised:  # as by a kill of the command while sbatch waits
        with pytest.raises(raised):
            submit(study, Resources(), Events(2, 0))
        assert states(study) == ["queued", "pending"]
        cluster.answer = None
    for _ in range(2):
        assert set(submit(study, Resources(), Events(2, 0)).values()) == {"queued"}
    assert len(cluster.names) == len(set(cluster.names)) == 2
    assert states(study) == ["queued", "queued"]


def test_a_job_that_sbatch_really_refuses_is_reported(study, squeue, monkeypatch):
    squeue("exit 0")
    monkeypatch.setattr(slurm, "make_executor", lambda *_: Mock(parameters={}, submit=Mock(side_effect=LOST)))
    with pytest.raises(InputError, match=r"sbatch refused 2d_baseline__fold0__seed0: .*Socket timed out"):
        submit(study, Resources(), Events(2, 0))


def test_jobs_of_another_study_with_the_same_cells_are_not_ours(study, squeue):
    other = dataclasses.replace(study, folder=study.folder.with_name("other"))
    name = observe.job_name(study, study.cells[0])
    assert study.cells[0].name in name and "study" in name and observe.job_name(other, study.cells[0]) != name
    squeue(f"echo '201 PENDING {name}'")
    assert [seen.job for seen in observe.observe(study)] == ["201", None]
    assert [seen.job for seen in observe.observe(other, observe.live_jobs())] == [None, None]


def test_nothing_is_submitted_where_it_could_not_be_noted(study, squeue, monkeypatch):
    squeue("exit 0")
    executor = Mock(parameters={})
    monkeypatch.setattr(slurm, "make_executor", lambda *_: executor)
    monkeypatch.setattr(slurm, "note_job", Mock(side_effect=InputError("slurm.json cannot be written")))
    with pytest.raises(InputError, match="cannot be written"):
        submit(study, Resources(), Events(2, 0))
    executor.submit.assert_not_called()
