"""What the tests run in processes of their own."""

import os
import subprocess
import sys
import time

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
    correctness.check(report, "cpu", "cuda", 60)
