import threading

import pytest
import torch

from nnunetv2_xattnres.architectures import numba_tensors
from nnunetv2_xattnres.architectures.numba_tensors import in_threads


@pytest.fixture(params=["OpenMP", "Python"])
def threads(request, monkeypatch):
    """PyTorch's threads, and those that stand in for them where PyTorch has another library."""
    if request.param == "Python":
        monkeypatch.setattr(numba_tensors, "_OPENMP", None)
    elif numba_tensors._OPENMP is None:
        pytest.skip("this PyTorch is not linked with an OpenMP library that has GOMP_parallel")


def test_each_item_is_worked_on_once_by_several_threads(threads):
    meeting, done = threading.Barrier(2, timeout=60), []

    def work(item):
        if item < 2:
            meeting.wait()  # one thread alone would wait in vain
        done.append(item)

    in_threads(work, range(20), 2)
    assert sorted(done) == list(range(20))


def test_an_error_comes_out_and_the_next_call_works(threads):
    def fail(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        in_threads(fail, range(4), 2)
    done = []
    in_threads(done.append, range(4), 2)
    assert sorted(done) == [0, 1, 2, 3]


def test_torch_computes_within_and_afterwards(threads):
    found = {}
    in_threads(lambda item: found.update({item: float(torch.ones(300, 300).mm(torch.ones(300, 300)).sum())}), [1, 2], 2)
    assert set(found.values()) == {300.0**3}
    assert float(torch.ones(300, 300).mm(torch.ones(300, 300)).sum()) == 300.0**3
