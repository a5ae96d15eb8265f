"""Random numbers that depend on seed, process, epoch and iteration alone, so that a run repeats, also continued."""

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
    """What random numbers are drawn for; each purpose has numbers of its own."""

    BUILD = 0
    EPOCH = 1
    TRAINING_BATCH = 2
    VALIDATION_BATCH = 3


def seed_of_environment() -> int | None:
    """The seed that ``XATTNRES_SEED`` asks for, or ``None`` where it is not set.

    Raises:
        InputError: it is not a whole number from 0 to 2**31 - 1.
    """
    seed = os.environ.get(SEED_VARIABLE)
    if not seed:
        return None
    if not seed.isdecimal() or int(seed) >= 2**31:
        raise InputError(f"{SEED_VARIABLE} is {seed}: give a whole number from 0 to {2**31 - 1}, or unset it")
    return int(seed)


def seed_everything(*key: int) -> None:
    """Seed python, numpy and torch, CUDA included, by whole numbers such as seed, rank, purpose and epoch."""
    torch.manual_seed(_seed_on_the_cpu(key))


def _seed_on_the_cpu(key: tuple[int, ...]) -> int:
    # SeedSequence mixes the numbers: seed 1 of process 0 has nothing in common with seed 0 of process 1
    value = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)
    return value


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    former = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Put the generators of the CPU back afterwards: the network draws from them as well, for example for dropout."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class RepeatableLoader:
    """Seeds each batch of a data loader by its epoch and iteration.

    So a batch is the same whatever was drawn before, in whichever worker process, and however often the training was
    continued.

    Args:
        loader: A data loader of batchgenerators; its batches go on for ever.
        key: Seed, rank and purpose.
        iterations: Batches of one epoch.
        first_epoch: Epoch of the first batch, for a training that continues.
    """

    def __init__(self, loader: Any, key: tuple[int, ...], iterations: int, first_epoch: int) -> None:
        self.loader, self.key, self.iterations = loader, key, iterations
        self.threads = 1
        self.next_batch = self.first_batch = first_epoch * iterations

    def set_thread_id(self, thread_id: int) -> None:
        """Called in each worker process: worker w of W draws the batches w, w + W, w + 2W, and so on."""
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
    """The loader's batches, in the order of their numbers, drawn by worker processes or, for 0, by this one.

    nnU-Net's own workers hand over whichever batch is ready first.

    Args:
        loader: Has ``threads``, and divides its batches among so many workers by ``set_thread_id``.
        processes: Number of worker processes.
        cached: Batches that each worker prepares in advance.
        pin_memory: For a CUDA device.
    """
    if processes == 0:
        return SingleThreadedAugmenter(loader, None)
    loader.threads = processes
    # workers draw different numbers where the loader itself does not seed
    seeds = [int(seed) for seed in np.random.randint(2**31, size=processes)]
    workers = MultiThreadedAugmenter(
        loader, None, processes, num_cached_per_queue=cached, seeds=seeds, pin_memory=pin_memory
    )
    workers.restart()  # starts the processes now: before the network has computed anything, forking is safe
    return workers
