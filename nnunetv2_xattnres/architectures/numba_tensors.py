"""Tensors as compiled functions take them, and threads to run these in.

Every tensor is seen as a volume ``[B, C, D, H, W]``, in whatever order it lies in memory; an image has D = 1. Its
layout, ``int64[6]``, is the address of its first element, then the strides of the five axes in elements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

MIN_ELEMENTS_PER_THREAD = 1 << 17  # with less, a thread costs more time than it saves

T = TypeVar("T")


def volume(x: Tensor) -> Tensor:
    """A view ``[B, C, D, H, W]`` of ``[B, C, *S]``."""
    return x.unsqueeze(2) if x.ndim == 4 else x


def layout(x: Tensor, origin: tuple[int, ...] = (0,) * 5) -> np.ndarray:
    """Address and strides of a tensor whose first element is that at ``origin`` of the whole."""
    strides = volume(x).stride()
    before = sum(index * stride for index, stride in zip(origin, strides, strict=True))
    return np.array([x.data_ptr() - before * x.element_size(), *strides], dtype=np.int64)


def threads_for(elements: int) -> int:
    """How many threads pay for work on so many elements: at most as many as PyTorch would take."""
    return max(1, min(torch.get_num_threads(), elements // MIN_ELEMENTS_PER_THREAD))


def in_threads(work: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call ``work`` on every item, in the OpenMP threads in which PyTorch computes, or else in Python's.

    A compiled function does not hold up other threads. Threads of its own would: PyTorch's spin for some milliseconds
    after each operation, and two sets of threads on the same cores make each wait for the other.
    """
    if threads == 1:
        for item in items:
            work(item)
    elif _OPENMP is None:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, items))
    else:
        waiting, errors = iter(list(items)), []

        def run(_data: int | None) -> None:
            try:
                for item in waiting:  # shared by the threads
                    work(item)
            except BaseException as error:
                errors.append(error)

        _OPENMP(_REGION(run), None, threads, 0)
        if errors:
            raise errors[0]


_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _openmp_parallel() -> Callable | None:
    """``GOMP_parallel`` of the OpenMP library that PyTorch is linked with: GNU's has it, and LLVM's on Linux."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel  # looked up in the libraries it depends on as well
    except (AttributeError, OSError):
        return None
    parallel.argtypes, parallel.restype = (_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


_OPENMP = _openmp_parallel()
