"""Tensors as compiled functions take them, and threads to run these in.

Every tensor is seen as a volume ``[B, C, D, H, W]``, in whatever order it lies in memory; an image has D = 1. Its
layout, ``int64[6]``, is the address of its first element, then the strides of the five axes in elements.
"""

from __future__ import annotations

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
    """Call ``work`` on every item.

    The threads are Python's, which a compiled function does not hold up. Numba's own may neither be forked, as
    nnU-Net's data loading does, nor be used from two threads at once.
    """
    if threads == 1:
        for item in items:
            work(item)
    else:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, items))
