"""Whether Triton is installed, and whether its kernels can run on a tensor."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType

from torch import Tensor


def triton_kernels(module: str, x: Tensor) -> ModuleType | None:
    """The module of Triton kernels of that name, where they can run on ``x``.

    They need Triton, and a GPU or Triton's interpreter (``TRITON_INTERPRET=1`` before the first call).
    """
    kernels = _imported(module)
    return kernels if kernels is not None and (x.is_cuda or _imported("triton_kernels").INTERPRETED) else None


@lru_cache(maxsize=2)
def _imported(module: str) -> ModuleType | None:
    try:
        return import_module(f"nnunetv2_xattnres.architectures.kernels.{module}")
    except ImportError:
        return None
