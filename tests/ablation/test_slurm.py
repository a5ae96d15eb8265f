"""A study on a real SLURM: one node on this machine, started by the script that CI uses as well."""

import subprocess
import sys
import threading
import time

import pytest

from nnunetv2_xattnres.ablation.listing import Events
from nnunetv2_xattnres.ablation.observe import live_jobs, observe
from nnunetv2_xattnres.ablation.slurm import Resources, follow, make_executor, submit
from nnunetv2_xattnres.errors import InputError

pytestmark = pytest.mark.slow
RESOURCES = Resources(gpus=0, cpus=1, minutes=30, memory="200M")


@pytest.fixture
def jobs(cluster, stubs, monkeypatch):
    """Jobs find the stand-ins for nnU-Net's commands."""
    monkeypatch.setenv("PYTHONPATH", stubs.environment()["PYTHONPATH"])
    yield stubs
    subprocess.run(["scancel", "--user=root"], check=True)


def states(study):
    return [seen.state for seen in observe(study)]


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def run(study, resources=RESOURCES):
    events = Events(len(study.cells), 0)
    follow(study, submit(study, resources, events), events, 0.2)


def test_cells_run_as_jobs_and_a_cancelled_one_comes_back_on_the_next_start(jobs, capsys):
    study = jobs.study("baseline", "noskip", "both")
    hang = jobs.tell("hang", "2d_both")
    thread = threading.Thread(target=run, args=(study,))
    thread.start()
    until((study.fold_folder(study.cells[2]) / "checkpoint_latest.pth").exists)
    assert states(study) == ["complete", "complete", "running"]
    record = study.read_state(study.cells[2])
    (job,) = live_jobs()
    assert record["slurm_job"] == job

    # a second start sees the job of the first, and submits nothing
    assert submit(study, RESOURCES, Events(3, 2))[study.cells[2]] == "running"
    assert set(live_jobs()) == {job}

    subprocess.run(["scancel", job], check=True)
    thread.join(60)
    assert not thread.is_alive() and states(study) == ["complete", "complete", "interrupted"]
    hang.unlink()
    run(study)
    assert states(study) == ["complete"] * 3
    calls = jobs.calls()
    assert [call["arguments"][1] for call in calls].count("2d_both") == 2 and calls[-1]["arguments"][-1] == "--c"
    output = capsys.readouterr().out
    assert "submitted as job" in output and f"running as job {job}" in output
    assert "the next start submits it again" in output and "submitted again as job" in output
    assert all((study.folder / "slurm" / f"{number}_0_log.out").exists() for number in (1, 2, 3))


def test_a_preempted_job_goes_back_into_the_queue_and_continues(jobs):
    study = jobs.study("both")
    hang = jobs.tell("hang", "2d_both")
    submit(study, RESOURCES, Events(1, 0))
    checkpoint = study.fold_folder(study.cells[0]) / "checkpoint_latest.pth"
    until(checkpoint.exists)
    (job,) = live_jobs()
    subprocess.run(["scontrol", "requeue", job], check=True)  # what a preempting partition does
    until(lambda: states(study) == ["queued"])
    hang.unlink()
    until(lambda: states(study) == ["complete"])
    assert [call["arguments"][-1] for call in jobs.calls()] == ["cpu", "--c"]
    assert study.read_state(study.cells[0])["slurm_job"] == job


def test_a_job_that_meets_its_time_limit_puts_itself_back_into_the_queue(jobs):
    study = jobs.study("both")
    hang = jobs.tell("hang", "2d_both")
    submit(study, RESOURCES, Events(1, 0))
    checkpoint = study.fold_folder(study.cells[0]) / "checkpoint_latest.pth"
    until(checkpoint.exists)
    (job,) = live_jobs()
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # what SLURM sends before the limit
    until(lambda: states(study) == ["queued"])
    hang.unlink()
    until(lambda: states(study) == ["complete"])
    assert [call["arguments"][-1] for call in jobs.calls()] == ["cpu", "--c"]


def test_a_failed_cell_is_reported_by_its_job(jobs, capsys):
    study = jobs.study("baseline", "both")
    jobs.tell("fail", "2d_baseline")
    run(study)
    assert states(study) == ["failed", "complete"]
    assert "FAILED, nnUNetv2_train ended with 1: KeyError: 'stub'" in capsys.readouterr().out


def test_resources_are_what_sbatch_gets(jobs, cluster):
    study = jobs.study("both")
    resources = Resources(gpus=0, cpus=1, minutes=7, memory="150M", partition="main", extra=(("comment", "a b"),))
    run(study, resources)
    (script,) = (study.folder / "slurm").glob("*_submission.sh")
    text = script.read_text()
    for line in ("--time=7", "--mem=150M", "--partition=main", "--cpus-per-task=1", "--requeue", "--comment='a b'"):
        assert f"#SBATCH {line}\n" in text
    assert "gpus" not in text
    assert sys.executable in text


def test_a_cell_of_several_gpus_gets_them_on_one_node(jobs, cluster):
    executor = make_executor(jobs.study("both"), Resources(gpus=4, cpus=24, memory="64G"))
    text = executor._make_submission_file_text("command", "id")
    for line in ("--gpus-per-node=4", "--nodes=1", "--cpus-per-task=24", "--mem=64G", "--time=1440"):
        assert f"#SBATCH {line}\n" in text


def test_what_sbatch_refuses_is_reported_without_a_traceback(jobs, cluster):
    study = jobs.study("both")
    with pytest.raises(InputError, match=r"sbatch refused 2d_both__fold0__seed0[\s\S]*partition"):
        submit(study, Resources(gpus=0, cpus=1, partition="nowhere"), Events(1, 0))
    assert states(study) == ["pending"]
