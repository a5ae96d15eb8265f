"""How much PyTorch and Triton are asked for by a reader in the form for CUDA: short kernels wait for the host."""

import os
from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from plans import clinicdb, inputs, readers
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_xattnres.architectures.kernels import cuda

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is started here"),
]


class Operations(TorchDispatchMode):
    """Counts PyTorch's operations, those included that allocate or only look at a tensor in another way."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch):
    """Counts launches by kernel."""
    from nnunetv2_xattnres.architectures.kernels import triton_launch, triton_mixture, triton_products, triton_reader

    counts = Counter()

    def launch(kernel, tiles, grid, arguments, constants, like, by=None):
        grid(tiles[0].constants)
        counts[kernel.__name__] += 1
        return tiles[0]

    class Table:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: counts.update(["_write_table"])

    monkeypatch.setattr(triton_mixture, "launch", launch)
    monkeypatch.setattr(triton_products, "launch", launch)
    monkeypatch.setattr(triton_launch, "_write_table", Table())
    monkeypatch.setattr(cuda, "triton_kernels", lambda module, x, takes: triton_reader)
    return counts


def test_a_reader_of_13_entries_starts_a_handful_of_kernels(launches):
    """The top stage of nnU-Net's default ClinicDB plan. One by one, it is more than 150 products, copies and sums."""
    *_, (batch, entries) = readers(clinicdb)
    assert len(entries) == 13
    features, weights, query = inputs(batch, entries)
    cuda.forward(features, weights, query, 1e-6)  # plans the reader
    launches.clear()
    with Operations() as operations:
        out = cuda.forward(features, weights, query, 1e-6)
    assert sum(launches.values()) <= 4 and operations.counts.total() <= 6
    launches.clear()
    with Operations() as operations:
        cuda.backward(torch.empty_like(out), features, weights, query, 1e-6)
    # in two parts; the operations are mostly one allocation per gradient
    assert sum(launches.values()) <= 2 * 9
    assert operations.counts.total() <= len([*features, *weights]) + 2 * 14, operations.counts


def test_all_readers_of_a_network_together(launches):
    """Entry by entry, it is 3,734, of which 981 start a kernel."""
    started = 0
    for batch, entries in readers(clinicdb):
        features, weights, query = inputs(batch, entries)
        cuda.forward(features, weights, query, 1e-6)
        launches.clear()
        with Operations() as operations:
            cuda.backward(cuda.forward(features, weights, query, 1e-6), features, weights, query, 1e-6)
        started += sum(launches.values()) + operations.counts.total()
    assert started <= 550, started
