"""Threads: no interrupt is lost, and nothing is returned that nobody has computed."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from nnunetv2_xattnres.architectures.kernels import cpu, cpu_threads
from nnunetv2_xattnres.architectures.kernels.cpu_compiled import record_of
from nnunetv2_xattnres.architectures.kernels.cpu_loading import load
from nnunetv2_xattnres.architectures.kernels.cpu_threads import Task, run


def pooled(x):
    return cpu.max_pool(x, (x.shape[2] // 2, x.shape[3] // 2))


@pytest.fixture
def image(monkeypatch):
    monkeypatch.setattr(cpu_threads, "MIN_ELEMENTS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    return torch.randn(2, 8, 16, 64)


def test_python_threads_where_there_is_no_openmp(image, monkeypatch):
    want = pooled(image)
    monkeypatch.setattr(cpu_threads, "openmp_parallel", lambda: None)
    assert torch.equal(pooled(image), want)


def test_what_the_team_leaves_is_computed_all_the_same(image, monkeypatch):
    want = pooled(image)
    calls = []
    monkeypatch.setattr(cpu_threads, "openmp_parallel", lambda: lambda *arguments: calls.append(arguments))
    assert torch.equal(pooled(image), want) and len(calls) == 1


def test_what_cannot_be_computed_is_an_error():
    task = Task(record_of("pooling", "float32"), 3, keep=[])
    with pytest.raises(MemoryError, match="out of memory"):
        run(lambda address: None, task, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_short_memory_within_the_threads_is_an_error():
    parts = np.zeros((3, 2), np.int64)
    sizes = dict.fromkeys(("channels", "depth", "height", "pooled_depth", "pooled_height", "pooled_width"), 1)
    layouts = dict.fromkeys(("feature", "pooled"), np.zeros(6, np.int64))
    task = Task(record_of("pooling", "float32"), 3, keep=[], parts=parts, width=1 << 56, **sizes, **layouts)
    with pytest.raises(MemoryError, match="out of memory"):
        run(load("pool", "float32"), task, 2)
    assert not task.done.any()


INTERRUPTS = """
import os, random, signal, threading, time, torch
from torch import nn
from nnunetv2_xattnres.architectures import XAttnRes

torch.set_num_threads(2), torch.manual_seed(0), random.seed(0)
stage = XAttnRes([8, 16], 16, nn.Conv2d, query_init="random").eval()
history, x = [torch.rand(2, 8, 128, 128), torch.rand(2, 16, 64, 64)], torch.rand(2, 16, 128, 128)
fired = caught = wrong = 0

def press():  # from another thread: so the main one waits for Python's lock wherever Python code begins
    time.sleep(random.uniform(1e-4, 1e-2))
    os.kill(os.getpid(), signal.SIGINT)

def interrupt(*_):
    global fired
    fired += 1
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
with torch.no_grad():
    want = stage(history, x)
    for before in range(300):
        thread = threading.Thread(target=press)
        try:
            thread.start()
            while fired == before:
                wrong += not torch.equal(stage(history, x), want)
        except KeyboardInterrupt:
            caught += 1
        thread.join()
print(fired, "fired,", fired - caught, "lost,", wrong, "wrong")
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("limit", ["2", "1"])
def test_no_interrupt_is_lost_and_no_result_is_wrong(limit):
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_THREAD_LIMIT": limit}
    done = subprocess.run([sys.executable, "-c", INTERRUPTS], env=environment, capture_output=True, text=True)
    assert done.stdout == "300 fired, 0 lost, 0 wrong\n", done.stdout + done.stderr
