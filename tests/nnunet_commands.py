"""nnU-Net's installed commands, and ours, in processes that start faster than the commands' files.

A file of a command calls the same function. But every worker process imports that file again, and with it modules
that the worker does not need: two seconds each. A command imports torch and other libraries first: five seconds each.
So :func:`run_command` forks each command from a process that has imported these libraries, but nothing of nnU-Net or
ours.
``test_demo.py`` and ``test_end_to_end.py`` start the files.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

LIBRARIES = (
    "torch", "torch._dynamo", "torch.distributed", "torchvision", "timm", "dynamic_network_architectures",
    "skimage.morphology", "skimage.measure", "skimage.transform", "sklearn.metrics", "scipy.stats", "seaborn", "pandas",
    "matplotlib.pyplot", "SimpleITK", "nibabel", "tifffile", "blosc2", "acvl_utils.cropping_and_padding.padding",
    "batchgenerators.dataloading.multi_threaded_augmenter", "batchgeneratorsv2.transforms.spatial.spatial",
    "batchgeneratorsv2.transforms.nnunet.random_binary_operator",
)  # fmt: skip
"""What nnU-Net imports from others. Those that read a test's environment on import (Numba, nnU-Net) are left out."""

ONE_PROCESS = ("-npp", 0, "-nps", 0)
"""For ``nnUNetv2_predict``: what is predicted is the same without processes that read and write images."""

# nnU-Net draws 10**8 intensities for the means and percentiles of a fingerprint, however few pixels there are
FEW_INTENSITIES = (
    "from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor; "
    "DatasetFingerprintExtractor.num_foreground_voxels_for_intensitystats = "
    "property(lambda self: 10**5, lambda self, value: None); "
)


def code_of(command: str) -> str:
    """One line of Python that does what the installed command does; planning draws few intensities."""
    (point,) = entry_points(group="console_scripts", name=command)
    code = f"import sys; from {point.module} import {point.attr} as main; sys.exit(main())"
    return FEW_INTENSITIES + code if command == "nnUNetv2_plan_and_preprocess" else code


def run_command(words: list[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: ``words`` are its name, or "-m" and a module's, and its arguments."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        process = context.Process(target=_as_command, args=(words, environment, os.getcwd(), streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        stdout, stderr = (stream.read_text(errors="replace") for stream in streams)
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def _as_command(words: list[str], environment: dict[str, str], folder: str, streams: list[Path]) -> None:
    """In the new process: everything that a command finds when it starts, then the command itself."""
    for number, stream in enumerate(streams, 1):
        with stream.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = words[1:] if words[0] == "-m" else list(words)
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the libraries were imported in another environment
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        exec(code_of(words[0]), {"__name__": "__main__"})
