"""Numba's cache: whatever is wrong with it, the functions compute, and one line says so."""

import os
import subprocess
import sys

import pytest
from numba import types
from numba.core.caching import IndexDataCacheFile

from nnunetv2_xattnres.architectures.kernels import cpu_loading

SIGNATURE = types.int64(types.int64)


def triple(x):
    return 3 * x


@pytest.fixture
def cache(tmp_path, monkeypatch, caplog):
    """An empty folder for the cache, in a process that has said nothing yet."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cpu_loading, "_SAID", set())
    return tmp_path


def compiled():
    callback = cpu_loading.compiled(triple, SIGNATURE)
    assert callback.ctypes(5) == 15
    return callback


def test_what_was_compiled_is_kept(cache, caplog):
    assert compiled().cache_hits == 0
    assert compiled().cache_hits == 1 and not caplog.messages


@pytest.mark.parametrize("what", ["empty", "cut", "garbage"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_is_made_anew(what, suffix, cache, caplog):
    compiled()
    (file,) = cache.rglob(f"*{suffix}")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\x08" + os.urandom(200)}[what])
    assert compiled().cache_hits == 0
    (message,) = caplog.messages
    assert str(file.parent) in message and "damaged" in message
    assert compiled().cache_hits == 1 and len(caplog.messages) == 1


def test_a_damaged_file_that_cannot_be_replaced(cache, caplog, monkeypatch):
    compiled()
    (file,) = cache.rglob("*.nbi")
    file.write_bytes(b"")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(IndexDataCacheFile, "_open_for_write", refuse)
    compiled()
    assert "damaged" in caplog.messages[0] and "Permission denied" in caplog.messages[1]


def test_a_full_disk_stops_nothing(cache, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    compiled(), compiled()
    (message,) = caplog.messages
    assert "No space left on device" in message and "NUMBA_CACHE_DIR" in message


def test_no_folder_that_can_be_written_to_stops_nothing(cache, caplog, monkeypatch):
    def nowhere(function):
        raise RuntimeError("cannot cache function 'triple': no locator available")

    monkeypatch.setattr(cpu_loading, "FunctionCache", nowhere)
    compiled(), compiled()
    (message,) = caplog.messages
    assert "no locator available" in message and "NUMBA_CACHE_DIR" in message


READER = """
import hashlib, torch
from torch import nn
from nnunetv2_xattnres.architectures import XAttnRes

torch.manual_seed(0), torch.set_num_threads(1)
digest = hashlib.sha256()
for conv, size in ((nn.Conv2d, (6, 10)), (nn.Conv3d, (4, 6, 10))):
    stage = XAttnRes([8, 8, 8, 4], 8, conv, query_init="random")
    sizes = [[2 * s for s in size], [s // 2 for s in size], [1] * len(size), size]
    history = [torch.rand(2, c, *s, requires_grad=True) for c, s in zip((8, 8, 8, 4), sizes)]
    x = torch.rand(2, 8, *size, requires_grad=True)
    y = stage(history, x)
    y.square().sum().backward()
    for tensor in (y, x.grad, *(h.grad for h in history), *(p.grad for p in stage.parameters())):
        digest.update(tensor.detach().numpy().tobytes())
print(digest.hexdigest())
"""


def reader(folder, **environment):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


@pytest.mark.slow
def test_compiled_loaded_and_healed_code_gives_the_same_bits(tmp_path):
    want, lines = reader(tmp_path)
    assert len(lines) == 1 and "Numba compiles" in lines[0]
    assert reader(tmp_path) == (want, [])
    damaged = sorted(tmp_path.rglob("*.nbc"), key=lambda file: file.stat().st_size)[:3]  # the quickest to compile
    assert len(damaged) == 3
    for file in damaged:
        file.write_bytes(b"")
    bits, lines = reader(tmp_path)
    assert bits == want and len(lines) == 2 and "damaged" in lines[0] and "Numba compiles" in lines[1]


def test_without_compiling_the_plain_form_runs(tmp_path):
    _, lines = reader(tmp_path, NUMBA_DISABLE_JIT="1")
    assert len(lines) == 1 and "NUMBA_DISABLE_JIT=1" in lines[0]
