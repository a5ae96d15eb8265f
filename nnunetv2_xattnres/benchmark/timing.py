"""One stopwatch for all figures."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch


def seconds(work: Callable[[], object], cuda: bool, clock: Callable[[], float] = perf_counter) -> float:
    """How long ``work`` takes, with what it starts on a GPU."""
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    work()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start
