"""Studies on systems without the signals, system calls and file locks of POSIX (Windows)."""

import pytest
from without_posix import WITHOUT, run

LOCAL = """
take_away()
import os
from pathlib import Path
import nnunetv2_xattnres.ablation.cell as cell, nnunetv2_xattnres.ablation.command as command
from nnunetv2_xattnres.ablation.locks import Lock, fcntl
from nnunetv2_xattnres.cli import main
cell.executable = lambda name: os.path.join({commands!r}, name)
command._plan, command._report = (lambda args, folder: command.Study.load(folder)), print
folder = Path({folder!r})
first, second = Lock(folder / "x.lock"), Lock(folder / "x.lock")
assert fcntl is None and not first.held() and first.acquire()
assert first.held() and second.held() and not second.acquire()
first.release()
assert not second.held() and second.acquire()
second.release()
codes = [main(["ablate", "1", "--gpus", "0", "--output", str(folder), *more]) for more in ([], [], ["--status"])]
print(codes)
"""


@pytest.mark.parametrize("failing", [False, True])
def test_a_study_runs_on_this_machine(stubs, failing):
    study = stubs.study("baseline", "both")
    if failing:
        stubs.tell("fail", "2d_baseline")
    done = run(WITHOUT + LOCAL.format(commands=str(stubs.commands), folder=str(study.folder)))
    assert done.stdout.splitlines()[-1:] == ["[1, 1, 1]" if failing else "[0, 0, 0]"], done.stdout + done.stderr
    counts = [call["arguments"][1] for call in stubs.calls()]
    assert counts.count("2d_both") == 1 and counts.count("2d_baseline") == 1 + failing


def test_ctrl_c_ends_the_training_of_a_study(stubs):
    study = stubs.study("both")
    hang = stubs.tell("hang", "2d_both")
    code = "import threading, time, _thread\n" + WITHOUT
    code += (
        "def press():\n"
        f"    while not os.path.exists({str(study.fold_folder(study.cells[0]) / 'checkpoint_latest.pth')!r}):\n"
        "        time.sleep(0.05)\n"
        "    _thread.interrupt_main()\n"
        f"    while open({str(stubs.root / 'calls.jsonl')!r}).read().count('nnUNetv2_train') < 2:\n"
        "        time.sleep(0.05)\n"
        f"    os.remove({str(hang)!r})\n"  # the second command's training goes on to its end
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "threading.Thread(target=press, daemon=True).start()\n"
    )
    done = run(code + LOCAL.format(commands=str(stubs.commands), folder=str(study.folder)), timeout=120)
    assert "the same command continues the study" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[130, 0, 0]"
    assert [call["arguments"][-1] for call in stubs.calls()] == ["cpu", "--c"]


@pytest.mark.parametrize("platform", ["win32", "darwin", "linux"])
def test_slurm_says_that_it_needs_linux(tmp_path, platform):
    code = "" if platform == "darwin" else WITHOUT + "take_away()\n"
    code += "import sys, nnunetv2_xattnres.ablation.command, nnunetv2_xattnres.ablation.slurm\n"
    code += f"from nnunetv2_xattnres.cli import main\nsys.platform = {platform!r}\n"
    code += f"print(main(['ablate', '1', '--executor', 'slurm', '--output', {str(tmp_path / 'study')!r}]))"
    done = run(code)
    assert done.stdout == "2\n" and not (tmp_path / "study").exists()
    assert done.stderr.startswith("error: --executor slurm needs Linux") and len(done.stderr.splitlines()) == 1
