"""Random numbers that depend only on seed, process, epoch and iteration, so that runs repeat, also continued ones."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from nnunetv2_xattnres.errors import InputError

SEED_VARIABLE = "XATTNRES_SEED"


class Purpose(IntEnum):
    """The purpose of random numbers; each purpose has its own sequence."""

    BUILD = 0
    EPOCH = 1
    TRAINING_BATCH = 2
    VALIDATION_BATCH = 3


def seed_of_environment() -> int | None:
    """The seed in ``XATTNRES_SEED``, or ``None`` if it is not set.

    Raises:
        InputError: the value is not a whole number from 0 to 2**31 - 1.
    """
    seed = os.environ.get(SEED_VARIABLE)
    if not seed:
        return None
    if not seed.isdecimal() or int(seed) >= 2**31:
        raise InputError(f"{SEED_VARIABLE} is {seed}: give a whole number from 0 to {2**31 - 1}, or unset it")
    return int(seed)


def seed_everything(*key: int) -> None:
    """Seed python, numpy and torch, CUDA included, with whole numbers such as seed, rank, purpose and epoch."""
    torch.manual_seed(_seed_on_the_cpu(key))


def _seed_on_the_cpu(key: tuple[int, ...]) -> int:
    # SeedSequence mixes the numbers: seed 1 of process 0 is independent of seed 0 of process 1
    value = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)
    return value


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Restore the CPU's generators after a block: the network draws from them as well, for example for dropout."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class RepeatableLoader:
    """Seeds each batch of a data loader with its epoch and iteration.

    So a batch does not depend on earlier draws, on its worker process, or on interruptions of the training.

    Args:
        loader: A data loader of batchgenerators without an end.
        key: Seed, rank and purpose.
        iterations: Batches per epoch.
        first_epoch: Epoch of the first batch, for a continued training.
    """

    def __init__(self, loader: Any, key: tuple[int, ...], iterations: int, first_epoch: int) -> None:
        self.loader, self.key, self.iterations = loader, key, iterations
        self.threads = 1
        self.next_batch = self.first_batch = first_epoch * iterations

    def set_thread_id(self, thread_id: int) -> None:
        """Tell the loader its worker process: worker w of W draws the batches w, w + W, w + 2W, and so on."""
        self.loader.set_thread_id(thread_id)
        self.next_batch = self.first_batch + thread_id

    def __iter__(self) -> RepeatableLoader:
        return self

    def __next__(self) -> dict[str, Any]:
        position = divmod(self.next_batch, self.iterations)
        self.next_batch += self.threads
        with _generators_kept():
            _seed_on_the_cpu((*self.key, *position))
            return next(self.loader)


def in_processes(loader: Any, processes: int, *, cached: int, pin_memory: bool) -> Any:
    """The loader's batches in the order of their numbers, drawn by worker processes or, for 0, by this process.

    nnU-Net's own workers return the batches in the order in which they are ready.

    Args:
        loader: A data loader that divides its batches among ``threads`` workers by ``set_thread_id``.
        processes: Number of worker processes.
        cached: Batches that each worker prepares in advance.
        pin_memory: Pin the batches' memory, for a CUDA device.
    """
    if processes == 0:
        return SingleThreadedAugmenter(loader, None)
    loader.threads = processes
    # so that workers draw different numbers if the loader itself does not seed
    seeds = [int(seed) for seed in np.random.randint(2**31, size=processes)]
    workers = MultiThreadedAugmenter(
        loader, None, processes, num_cached_per_queue=cached, seeds=seeds, pin_memory=pin_memory
    )
    workers.restart()  # start the processes now: forking is safe only before the network has computed anything
    return workers
