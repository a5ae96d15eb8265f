"""Runs compiled entry points on a list of items in several threads, and proves that every item was computed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # importing Numba takes a second
    from nnunetv2_xattnres.architectures.kernels.cpu_loading import EntryPoint

MIN_ELEMENTS_PER_THREAD = 1 << 17  # with less, a thread costs more time than it saves


def threads_for(elements: int) -> int:
    """How many threads pay for work on so many elements: at most as many as PyTorch would take."""
    return max(1, min(torch.get_num_threads(), elements // MIN_ELEMENTS_PER_THREAD))


class Task:
    """The argument of an entry point.

    Args:
        record: Its type: ``cpu_compiled.record_of``.
        items: How many there are.
        keep: Tensors whose memory the arguments name: kept alive as long as a thread may use it.
        arguments: The fields of the record. The field of an array holds its address.
    """

    def __init__(self, record: np.dtype, items: int, keep: Sequence[Tensor], **arguments: int | np.ndarray) -> None:
        self.counter, self.done = np.zeros(1, np.int64), np.zeros(items, np.uint8)
        arguments.update(counter=self.counter, done=self.done, items=items)
        self._keep = keep, arguments
        self._record = np.zeros(1, record)
        for name, value in arguments.items():
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous, name  # compiled code counts on it
                value = value.ctypes.data
            self._record[name] = value
        self.address = self._record.ctypes.data


def run(function: EntryPoint, task: Task, threads: int) -> None:
    """Call an entry point of ``cpu_loading.load`` in the OpenMP threads in which PyTorch computes, or in Python's.

    Compiled functions do not hold Python's lock. Threads of their own would slow them down: PyTorch's threads spin for
    some milliseconds after each operation, and two sets of threads on the same cores make each wait for the other.

    No Python code runs inside the OpenMP region: a signal handler that ran there and raised (Ctrl-C) would end the
    item, and its exception would be lost. Python runs the handler when the region is over.

    Raises:
        MemoryError: where an item could not be computed. A compiled function can fail for no other reason.
    """
    parallel = openmp_parallel() if threads > 1 else None
    if threads == 1:
        function(task.address)
    elif parallel is not None:
        parallel(function.address, task.address, threads, 0)
    else:
        _run_in_python_threads(function, task, threads)
    if not task.done.all():  # a team may be smaller than asked for, and memory may have been short for a moment
        task.counter[0] = 0
        function(task.address)
        if not task.done.all():
            raise MemoryError("XAttnRes on a CPU: out of memory. Use smaller batches or patches.")


def _run_in_python_threads(function: EntryPoint, task: Task, threads: int) -> None:
    def work(task: Task) -> None:  # refers to the task, so that its memory outlives a second Ctrl-C
        function(task.address)

    with ThreadPoolExecutor(threads - 1) as executor:
        for _ in range(threads - 1):
            executor.submit(work, task)
        work(task)


@lru_cache(maxsize=1)
def openmp_parallel() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel`` of the OpenMP library that PyTorch is linked with: GNU's has it, and LLVM's on Linux."""
    # a symbol is looked up in the libraries that a library depends on as well; None is the whole process
    for library in (Path(torch.__file__).parent / "lib" / "libtorch_cpu.so", None):
        try:
            parallel = ctypes.CDLL(library if library is None else str(library)).GOMP_parallel
        except (AttributeError, OSError, TypeError):  # None is a TypeError on Windows
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        return parallel
    return None
