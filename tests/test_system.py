"""Helpers for this machine."""

import os

import pytest

from nnunetv2_xattnres import system


@pytest.mark.parametrize(("said", "limited"), [("1000000", True), ("max", False), (None, False)])
def test_a_containers_memory_counts(tmp_path, monkeypatch, said, limited):
    file = tmp_path / "memory.max"
    if said:
        file.write_text(said + "\n")
    monkeypatch.setattr(system, "CONTAINER_LIMITS", (file,))
    memory = system.memory_bytes()
    assert (memory == 1_000_000) if limited else memory > 2**28


def test_memory_may_be_unknown(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert system.memory_bytes() is None
