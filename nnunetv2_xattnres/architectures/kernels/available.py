"""Whether Triton is installed, and whether its kernels can run on a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType

from torch import Tensor

# How often each module of kernels was asked for, and what ran instead of it: `bench --check` reads it.
forms_used: Counter[tuple[str, str]] = Counter()


def reader_forms() -> dict[str, int]:
    """Forward and backward passes of readers in the form for CUDA so far, by what computed them."""
    return {form: count for (module, form), count in forms_used.items() if module == "triton_reader"}


def triton_kernels(module: str, x: Tensor, takes: Callable[[ModuleType], bool]) -> ModuleType | None:
    """The module of Triton kernels of that name, where they can run on ``x``, and it ``takes`` the tensors.

    They need Triton, and a GPU or Triton's interpreter (``TRITON_INTERPRET=1`` before the first call).
    """
    kernels = _imported(module)
    interpreted = kernels is not None and getattr(_imported("triton_launch"), "INTERPRETED", False)
    if kernels is not None and not ((interpreted or x.is_cuda) and takes(kernels)):
        kernels = None
    form = "plain torch" if kernels is None else "Triton's interpreter" if interpreted else "Triton"
    forms_used[module, form] += 1
    return kernels


@lru_cache(maxsize=3)
def _imported(module: str) -> ModuleType | None:
    try:
        return import_module(f"nnunetv2_xattnres.architectures.kernels.{module}")
    except ImportError:
        return None
