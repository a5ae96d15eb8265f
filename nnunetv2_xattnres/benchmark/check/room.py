"""How many items of the check are prepared side by side: the machine's cores and memory, and the card's memory."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from nnunetv2_xattnres.benchmark.check.items import Item
from nnunetv2_xattnres.system import available_cores, memory_bytes

CORES = 2  # per item that is prepared: compilers use several
HOST_MEMORY = 4.0  # GiB per process
HELD = 2.0  # GiB on the card that a prepared item keeps: CUDA itself, weights, momentum
USABLE = 0.9  # of the card; if other programs hold more, an item runs out of memory, and is tried again alone


@dataclass(frozen=True)
class Room:
    """The room for items; a single item always has room.

    Attributes:
        places: Items that may be prepared at once. Those that wait for their turn do not count.
        processes: Items that may exist at once.
        memory: GiB of the card.
    """

    places: int
    processes: int
    memory: float = math.inf

    def has_place(self, item: Item, working: Collection[Item], waiting: Collection[Item]) -> bool:
        """Whether ``item`` can be prepared beside those that are ``working`` and those that wait for their turn."""
        if not working and not waiting:
            return True
        if len(working) >= self.places or len(working) + len(waiting) >= self.processes:
            return False
        prepared = [item, *working]
        turn = max(one.memory for one in [*prepared, *waiting])  # one of them will need its peak again
        return sum(one.memory for one in prepared) + HELD * len(waiting) + turn <= self.memory


def room_here(device: str) -> Room:
    """The room of this machine; ``device`` is ``cuda`` or ``cpu``."""
    host = memory_bytes()
    processes = max(1, int(host / 2**30 / HOST_MEMORY)) if host else math.inf
    places = max(1, available_cores() // CORES)
    memory = math.inf
    if device == "cuda":
        import torch

        memory = USABLE * torch.cuda.get_device_properties(0).total_memory / 2**30
    return Room(places, int(min(processes, 64)), memory)
