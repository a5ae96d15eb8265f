"""Two stopwatches: one for the time that a caller waits, one for the time that a GPU computes."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch


def seconds(work: Callable[[], object], cuda: bool, clock: Callable[[], float] = perf_counter) -> float:
    """Seconds that ``work`` takes, including its work on a GPU."""
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    work()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start


def gpu_seconds(work: Callable[[], object]) -> float:
    """Seconds that a GPU computes ``work``, between two events on it.

    The GPU first gets a millisecond of other work, so that it does not wait while the host starts many short
    operations. This work also clears its cache.
    """
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    other = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    for value in range(16):
        other.fill_(value)
    before.record()
    work()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3
