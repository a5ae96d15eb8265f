"""What the tests run in processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

from nnunetv2_xattnres.benchmark.check.process import WrongResult


def good(report, value=1):
    report(value=value)
    report(nan=float("nan"), folder=os.environ.get("nnUNet_raw"))  # noqa: SIM112


def fails(report):
    report(before=1)
    raise ValueError("the first line\nthe second line")


def hangs(report):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report(before=1, pid=os.getpid(), sleeper=sleeper.pid)
    time.sleep(600)


def no_memory(report):
    class OutOfMemoryError(RuntimeError):  # as torch's, which takes seconds to import
        pass

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def wrapped_no_memory(report):
    raise RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory.")


def busy(report):
    raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be")


def quits(report):
    report(before=1)
    os._exit(3)


def wrong(report):
    raise WrongResult("a loss is not a finite number")


def broken_kernel(report):
    """The check of a form for CUDA whose mixture is a thousandth too large."""
    from nnunetv2_xattnres.architectures.xattnres import Kernel, mix_plain, register_kernel
    from nnunetv2_xattnres.benchmark.check import correctness

    register_kernel("cuda", Kernel(mix=lambda *arguments: mix_plain(*arguments) * 1.001))
    correctness.COMPARISONS = correctness.COMPARISONS[:1]
    correctness.check(report, "cpu", "cuda", "float32", 60)


def until(report, files):
    """Ends half a second after all these files exist."""
    while not all(Path(file).exists() for file in files):
        time.sleep(0.02)
    time.sleep(0.5)


def measured(report, prepare=0.0, seconds=0.2, touch=None):
    """Prepares, and measures in its turn; the times are those of one clock for all processes."""
    began = time.monotonic()
    if touch:
        Path(touch).touch()
    report(pid=os.getpid())
    time.sleep(prepare)
    report(prepared=[began, time.monotonic()])
    report.wait_for_turn()
    began = time.monotonic()
    time.sleep(seconds)
    report(turn=[began, time.monotonic()], paused=report.paused())


def steps(report, folder, name, prepare=1.0):
    """Prepares in many short steps, of which each leaves its time in a file."""
    file = Path(folder) / name
    end = time.monotonic() + prepare
    while time.monotonic() - report.paused() < end:
        with file.open("a") as stream:
            stream.write(f"{time.monotonic()}\n")
        time.sleep(0.01)
    measured(report)


def hangs_in_its_turn(report):
    report.wait_for_turn()
    report(has_turn=1)
    time.sleep(600)


def works_alone(report, folder, fault):
    """Fails at the first attempt."""
    file = Path(folder) / "attempts"
    attempts = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(attempts))
    report(attempts=attempts)
    if attempts == 1:
        {"no_memory": no_memory, "busy": busy}[fault](report)
    measured(report)
