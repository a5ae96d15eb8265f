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
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from multiprocessing import forkserver
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
    if sys.version_info < (3, 14):  # later, the server wants a key as well
        _let_workers_fork(folder=streams[0].parent)
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        exec(code_of(words[0]), {"__name__": "__main__"})


def _let_workers_fork(folder: Path) -> None:
    """Processes that nnU-Net spawns fork from a copy of this process, which is what it is when a command starts.

    Otherwise each imports torch again. What they are given is pickled all the same, and ``test_spawn.py`` spawns them.
    """
    address, (alive, hold) = str(folder / "workers"), os.pipe()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    child = os.fork()
    if child == 0:
        os.close(hold)
        forkserver.main(listener.fileno(), alive, [])
        os._exit(0)
    server = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, hold, child
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("forkserver" if method == "spawn" else method)
