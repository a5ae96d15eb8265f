"""Running a study on this machine: skipping, failing, stopping, being killed, starting twice."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nnunetv2_xattnres.ablation import cell as cell_module
from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.listing import Events
from nnunetv2_xattnres.ablation.local import run_local
from nnunetv2_xattnres.ablation.observe import observe
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError

CPU = Device()


def run(study, where=(CPU,), stop=None):
    events = Events(len(study.cells), 0)
    run_local(study, list(study.cells), list(where), events, stop or threading.Event())


def states(study):
    return [seen.state for seen in observe(study)]


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_complete_cells_are_skipped_on_a_second_start(stubs, capsys):
    study = stubs.study("baseline", "both", seeds=(0, 1))
    run(study)
    assert states(study) == ["complete"] * 4
    assert [call["seed"] for call in stubs.calls()] == ["0", "0", "1", "1"]
    assert len({call["results"] for call in stubs.calls()}) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and "2d_both__fold0__seed1: complete, Dice 0.5000" in lines[-1] and "[4/4]" in lines[-1]
    run(study)
    assert len(stubs.calls()) == 4


def test_the_record_of_a_cell_says_what_was_run(stubs):
    study = stubs.study("both")
    run(study)
    (cell,) = study.cells
    record = study.read_state(cell)
    assert record["device"] == "CPU" and "nnunetv2" in record["versions"] and record["hours"] >= 0
    train, score = record["commands"]
    assert "XATTNRES_SEED=0 nnUNetv2_train Dataset001_Stub 2d_both 0 -tr T -p P -device cpu" in train
    assert "evaluate" in score and score.endswith("--convention nnunet --overwrite --predicted-only")
    assert record["predicted"] == "validation" and record["reference"].endswith("Dataset001_Stub/gt_segmentations")
    predictions = study.cell_folder(cell) / "predictions"
    assert sorted(path.name for path in predictions.iterdir()) == ["case_1.png", "case_2.png"]
    assert "nnUNetv2_train" in (study.cell_folder(cell) / "log.txt").read_text()


def test_a_test_set_is_predicted_where_there_is_one(stubs):
    for name in ("imagesTs", "labelsTs"):
        folder = stubs.root / "raw" / "Dataset001_Stub" / name
        folder.mkdir(parents=True)
        (folder / "case_9.png").touch()
    study = stubs.study("both")
    run(study)
    (call,) = stubs.calls("nnUNetv2_predict")
    assert str(stubs.root / "raw" / "Dataset001_Stub" / "imagesTs") in call["arguments"]
    (scored,) = stubs.calls("nnunetv2_xattnres")
    assert "--predicted-only" not in scored["arguments"]
    assert study.read_state(study.cells[0])["reference"].endswith("labelsTs")


def test_a_failed_cell_is_reported_and_does_not_stop_the_others(stubs, capsys):
    study = stubs.study("baseline", "both")
    cause = stubs.tell("fail", "2d_baseline")
    run(study)
    assert states(study) == ["failed", "complete"]
    output = capsys.readouterr().out
    assert "2d_baseline__fold0__seed0: FAILED, nnUNetv2_train ended with 1: KeyError: 'stub'; log: " in output
    cause.unlink()
    run(study)
    assert states(study) == ["complete", "complete"]
    assert [call["arguments"][1] for call in stubs.calls()] == ["2d_baseline", "2d_both", "2d_baseline"]


def test_what_nobody_expected_fails_its_cell_alone(stubs):
    study = stubs.study("baseline", "both")
    (stubs.root / "preprocessed" / "Dataset001_Stub" / "dataset.json").write_text("{")
    run(study)
    assert states(study) == ["failed", "failed"]
    assert "cannot be read as JSON" in study.read_state(study.cells[0])["error"]


def test_a_log_is_named_where_there_is_one(stubs, monkeypatch, capsys):
    study = stubs.study("baseline", "both")
    stubs.tell("fail", "2d_both")
    real = cell_module.train_command

    def train_command(study, cell, device):
        if cell.variant == "baseline":
            raise InputError("nothing was started")
        return real(study, cell, device)

    monkeypatch.setattr(cell_module, "train_command", train_command)
    run(study)
    assert main(["ablate", "1", "--output", str(study.folder), "--status"]) == 1
    named = [part.strip() for line in capsys.readouterr().out.splitlines() for part in line.split("log: ")[1:]]
    assert named == [str(study.cell_folder(study.cells[1]) / "log.txt")] * 2
    assert Path(named[0]).is_file() and not (study.cell_folder(study.cells[0]) / "log.txt").exists()


@pytest.mark.parametrize("what", ["cell.json", "log.txt", "cell.lock"])
def test_a_cell_whose_files_cannot_be_written_does_not_stop_the_others(stubs, monkeypatch, capsys, what):
    study = stubs.study("baseline", "both")
    full = study.cell_folder(study.cells[0]) / what

    def refusing(real):
        def wrapped(path, *arguments, **options):
            if full in (Path(path), *map(Path, filter(lambda each: isinstance(each, (str, Path)), arguments))):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return real(path, *arguments, **options)

        return wrapped

    for place, name in ((os, "replace"), (os, "open"), (Path, "replace"), (Path, "open")):
        monkeypatch.setattr(place, name, refusing(getattr(place, name)))
    run(study)
    monkeypatch.undo()
    assert states(study)[1] == "complete"
    output = capsys.readouterr().out
    assert "2d_baseline__fold0__seed0: FAILED, " in output and "No space left on device" in output


def test_a_study_whose_cell_cannot_be_written_ends_in_a_listing(stubs, monkeypatch, capsys):
    from nnunetv2_xattnres.ablation import command

    study = stubs.study("baseline", "both")
    shutil.rmtree(study.cell_folder(study.cells[0]))
    study.cell_folder(study.cells[0]).write_text("in the way")
    monkeypatch.setattr(command, "_plan", lambda *_: study)
    monkeypatch.setattr(Study, "save", lambda _: None)
    monkeypatch.setattr(command, "_report", print)
    assert main(["ablate", "1", "--gpus", "0", "--output", str(study.folder)]) == 1
    output = capsys.readouterr().out
    assert "2d_baseline__fold0__seed0: FAILED" in output and "2 cells: 1 complete, 1 pending" in output


def test_a_stopped_study_continues_from_the_checkpoint(stubs, capsys):
    study = stubs.study("baseline", "both")
    hang = stubs.tell("hang", "2d_baseline")
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(study, [CPU], stop))
    thread.start()
    checkpoint = study.fold_folder(study.cells[0]) / "checkpoint_latest.pth"
    until(checkpoint.exists)
    running = observe(study)[0]
    assert running.state == "running" and running.detail.endswith("epoch 7")
    stop.set()
    thread.join(120)
    assert not thread.is_alive() and states(study) == ["interrupted", "pending"]
    assert not alive(stubs.calls()[0]["pid"])
    hang.unlink()
    run(study)
    assert states(study) == ["complete", "complete"]
    assert [call["arguments"][-1] for call in stubs.calls()] == ["cpu", "--c", "cpu"]
    assert "continues on CPU" in capsys.readouterr().out


def test_the_epoch_is_that_of_the_newest_log(stubs):
    """nnU-Net's names put November 10 before November 9."""
    study = stubs.study("both")
    (cell,) = study.cells
    study.update_state(cell, state="running", started="2026-11-09")
    study.fold_folder(cell).mkdir(parents=True)
    for day, epoch in ((10, 57), (9, 12)):
        log = study.fold_folder(cell) / f"training_log_2026_11_{day}_08_00_00.txt"
        log.write_text(f"2026-11-{day}: Epoch {epoch} \n")
        os.utime(log, (day, day))
    assert observe(study)[0].detail == "epoch 57"


def test_every_gpu_works_on_one_cell(stubs):
    study = stubs.study("baseline", "noskip", "both")
    hang = [stubs.tell("hang", f"2d_{name}") for name in ("baseline", "noskip")]
    thread = threading.Thread(target=run, args=(study, [Device(1, "0"), Device(1, "1")]))
    thread.start()
    until(lambda: len(stubs.calls()) == 2)  # at the same time, and not the third
    assert states(study).count("running") == 2
    for path in hang:
        path.unlink()
    thread.join(120)
    assert states(study) == ["complete"] * 3
    calls = stubs.calls()
    assert {call["gpu"] for call in calls[:2]} == {"0", "1"}
    assert all(call["arguments"][-1] == "cuda" for call in calls)


def test_two_starts_at_the_same_time_do_not_run_a_cell_twice(stubs, capsys):
    study = stubs.study("baseline", "noskip", "both")
    hang = stubs.tell("hang", "2d_baseline")
    threads = [threading.Thread(target=run, args=(study,)) for _ in range(2)]
    threads[0].start()
    until(lambda: stubs.calls())
    threads[1].start()
    until(lambda: states(study)[1:] == ["complete", "complete"])
    assert states(study)[0] == "running"
    hang.unlink()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert states(study) == ["complete"] * 3 and len(stubs.calls()) == 3
    assert "another start is at it" in capsys.readouterr().out


START = """
import threading
from pathlib import Path
from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.listing import Events
from nnunetv2_xattnres.ablation.local import run_local
from nnunetv2_xattnres.ablation.study import Study
study = Study.load(Path({folder!r}))
run_local(study, study.cells, [Device()], Events(1, 0), threading.Event())
"""


def test_a_killed_start_is_picked_up_once_its_training_is_gone(stubs):
    study = stubs.study("both")
    hang = stubs.tell("hang", "2d_both")
    often = "import nnunetv2_xattnres.ablation.cell as cell\ncell.NOTE_SECONDS = 0\n"
    process = stubs.start(often + START.format(folder=str(study.folder)))
    until(lambda: (study.fold_folder(study.cells[0]) / "checkpoint_latest.pth").exists())
    until(lambda: study.read_state(study.cells[0])["hours"] > 0)  # while the training still runs
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (call,) = stubs.calls()
    assert alive(call["pid"]) and states(study) == ["running"]  # its training still guards the cell
    os.kill(call["pid"], signal.SIGKILL)
    until(lambda: states(study) == ["interrupted"])
    record = study.read_state(study.cells[0])
    assert record["state"] == "running" and record["hours"] > 0  # nobody was left to write anything else
    hang.unlink()
    run(study)
    assert states(study) == ["complete"] and study.read_state(study.cells[0])["hours"] >= record["hours"]
    assert stubs.calls()[1]["arguments"][-1] == "--c"


def ablate(stubs, study, before):
    """Start ``ablate`` on a study in another process, after some code."""
    code = "import signal, sys, nnunetv2_xattnres.ablation.command as c, nnunetv2_xattnres.cli as cli\n"
    # tests that a shell started in the background hand on that SIGINT is ignored
    code += f"signal.signal(signal.SIGINT, signal.default_int_handler)\n{before}\n"
    code += "c._plan, c._report = (lambda args, folder: c.Study.load(folder)), print\n"
    code += f"sys.exit(cli.main(['ablate', '1', '--gpus', '0', '--output', {str(study.folder)!r}]))"
    return stubs.start(code)


def test_ctrl_c_ends_the_training_and_leaves_a_study_that_continues(stubs):
    study = stubs.study("both", "baseline")
    hang = stubs.tell("hang", "2d_both")
    process = ablate(stubs, study, "signal.signal(signal.SIGHUP, signal.SIG_DFL)")
    until(lambda: (study.fold_folder(study.cells[0]) / "checkpoint_latest.pth").exists())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command continues the study" in output
    assert states(study) == ["interrupted", "pending"] and not alive(stubs.calls()[0]["pid"])
    hang.unlink()
    run(study)
    assert states(study) == ["complete"] * 2


@pytest.mark.parametrize(("handler", "code"), [("SIG_IGN", 0), ("SIG_DFL", 130)])
def test_the_end_of_a_login_ends_the_study_except_under_nohup(stubs, handler, code):
    study = stubs.study("both")
    hang = stubs.tell("hang", "2d_both")
    process = ablate(stubs, study, f"signal.signal(signal.SIGHUP, signal.{handler})")
    until(lambda: (study.fold_folder(study.cells[0]) / "checkpoint_latest.pth").exists())
    process.send_signal(signal.SIGHUP)
    if code:
        process.wait(120)
    hang.unlink()
    process.communicate(timeout=120)
    assert process.returncode == code and states(study) == ["interrupted" if code else "complete"]


def test_a_training_that_somebody_else_ends_is_no_success(stubs):
    study = stubs.study("both")
    stubs.tell("hang", "2d_both")
    process = ablate(stubs, study, "")
    until(lambda: stubs.calls())
    os.kill(stubs.calls()[0]["pid"], signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 1 and states(study) == ["interrupted"]


def test_status_imports_neither_torch_nor_nnunet(stubs):
    study = stubs.study("baseline", "noskip", "replace", "both", seeds=tuple(range(10)))
    code = "import sys\nfrom nnunetv2_xattnres.cli import main\n"
    code += f"code = main(['ablate', '1', '--status', '--output', {str(study.folder)!r}])\n"
    code += "print(sorted({'torch', 'nnunetv2', 'numpy', 'matplotlib'} & set(sys.modules)), code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[] 0" and lines[-2] == "40 cells: 40 pending" and len(lines) == 44


def test_status_of_a_folder_without_a_study_says_so(tmp_path, capsys):
    from nnunetv2_xattnres.cli import main

    assert main(["ablate", "1", "--status", "--output", str(tmp_path)]) == 2
    assert "there is no study in" in capsys.readouterr().err


def test_a_study_without_its_file_is_none(tmp_path):
    assert Study.load(tmp_path) is None


@pytest.mark.parametrize("code", [-9, 3])
def test_failures_by_signal_are_named(tmp_path, code):
    from nnunetv2_xattnres.ablation.process import reason

    log = tmp_path / "log.txt"
    log.write_text("Traceback\nValueError: x\n\n")
    assert reason(code, log) == ("was killed (SIGKILL): out of memory?" if code < 0 else "ended with 3: ValueError: x")
