"""Looking at a study: at its locks without being in the way, and at a queue that does not always answer."""

import fcntl
import os
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest

from nnunetv2_xattnres.ablation import command, locks, observe, slurm
from nnunetv2_xattnres.ablation.cell import lock_of, run_cell
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
        lock = lock_of(study, cell)
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
    lock, inner = lock_of(study, study.cells[0]), []
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
            looking.append(os.open(lock_of(study, study.cells[0]).path, os.O_RDONLY))
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
    monkeypatch.setattr(slurm, "submit", lambda *_: dict.fromkeys(study.cells, "queued"))
    arguments = ["ablate", "1", "--executor", "slurm", "--output", str(study.folder), *detach]
    assert main(arguments) == code and states(study) == ["pending", "pending"]


def test_a_negative_number_of_gpus_is_refused(study):
    with pytest.raises(InputError, match="--gpus -1"):
        submit(study, Resources(gpus=-1), Events(2, 0))
