import math
from types import SimpleNamespace

import pytest
import torch

from nnunetv2_xattnres.benchmark.check import room
from nnunetv2_xattnres.benchmark.check.items import Item
from nnunetv2_xattnres.benchmark.check.room import Room, room_here


def test_room_is_for_the_peaks_of_those_that_are_prepared_and_of_one_turn():
    room, network = Room(3, 5, memory=24), Item("a", "module:name", memory=7)
    assert room.has_place(network, [], []) and room.has_place(network, [network], [])
    assert not room.has_place(network, [network, network], [])  # 28 GiB
    assert room.has_place(network, [network], [Item("small", "module:name", memory=1)])
    assert Room(3, 5).has_place(network, [network] * 2, []) and not Room(3, 5).has_place(network, [network] * 3, [])
    assert Room(3, 5).has_place(network, [], [network] * 4) and not Room(3, 5).has_place(network, [], [network] * 5)
    assert Room(1, 1, memory=4).has_place(network, [], [])


@pytest.mark.parametrize(("cores", "host", "places", "processes"), [
    (1, 2, 1, 1), (2, 24, 1, 6), (4, 8, 2, 2), (16, 128, 8, 32), (16, None, 8, 64)
])  # fmt: skip
def test_places_go_by_cores_and_processes_by_memory(monkeypatch, cores, host, places, processes):
    monkeypatch.setattr(room, "available_cores", lambda: cores)
    monkeypatch.setattr(room, "memory_bytes", lambda: host and host * 2**30)
    assert room_here("cpu") == Room(places, processes, math.inf)


def test_the_cards_memory_is_asked_for(monkeypatch):
    card = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert room_here("cuda").memory == pytest.approx(72)
