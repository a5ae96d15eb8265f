import pytest
import torch

from nnunetv2_xattnres.architectures import numba_kernel, numba_tensors


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_do_not_depend_on_which_thread_is_first(batch, monkeypatch):
    monkeypatch.setattr(numba_tensors, "MIN_ELEMENTS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def gradients(order):
        def one_after_the_other(work, items, threads):
            for item in order(list(items)):
                work(item)

        monkeypatch.setattr(numba_kernel, "in_threads", one_after_the_other)
        torch.manual_seed(0)
        values = [torch.randn(batch, 8, *size, requires_grad=True) for size in [(2, 3), (16, 24), (16, 24)]]
        query = torch.randn(8, requires_grad=True)
        numba_kernel.aggregate(values, query, 1e-6).square().sum().backward()
        return [tensor.grad for tensor in (query, *values)]

    for ours, reverse in zip(gradients(list), gradients(lambda items: items[::-1]), strict=True):
        assert torch.equal(ours, reverse)
