"""Describes the machine: the GPU and the versions, in one line."""

from __future__ import annotations

import platform

import torch

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.system import available_cores, version_of


def describe(device: str) -> str:
    """The GPU or the processor, and the versions of the libraries."""
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        free, total = (memory / 2**30 for memory in torch.cuda.mem_get_info())
        card = f"{torch.cuda.get_device_name()} (sm_{major}{minor}, {free:.0f} of {total:.0f} GiB free)"
        where = f"{card}, CUDA {torch.version.cuda}"
    else:
        where = platform.processor() or platform.machine()
    return (
        f"{where}, {available_cores()} CPU cores; torch {torch.__version__}, Triton {_version('triton')}, "
        f"nnunetv2 {_version('nnunetv2')}, nnunetv2_xattnres {__version__}, Python {platform.python_version()}"
    )


def why_no_triton() -> str:
    """Why Triton's kernels cannot be imported; empty if they can."""
    try:
        import nnunetv2_xattnres.architectures.kernels.triton_mixture  # noqa: F401
    except ImportError as error:
        return str(error).splitlines()[0]
    return ""


def _version(name: str) -> str:
    return version_of(name) or version_of(f"{name}-windows") or "missing"
