import pytest
import torch

from nnunetv2_xattnres.architectures import numba_pool, numba_tensors
from nnunetv2_xattnres.architectures.xattnres import max_pool_plain


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 3, 8, 128), (4, 64)),
        ((2, 3, 9, 96), (3, 32)),
        ((1, 2, 64, 64), (1, 1)),
        ((2, 3, 6, 8, 64), (6, 4, 32)),
        ((2, 3, 6, 4, 72), (2, 1, 18)),
    ],
)
def test_pooling_and_its_gradient_equal_pytorchs(shape, size, channels_last, monkeypatch):
    monkeypatch.setattr(numba_tensors, "MIN_ELEMENTS_PER_THREAD", 1)
    torch.manual_seed(0)
    x = torch.randn(shape).mul(2).round()  # so coarse that the largest element is often there more than once
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        x = x.contiguous(memory_format=memory_format)
    x.requires_grad_()
    ours, plain = numba_pool.max_pool(x, size), max_pool_plain(x, size)
    assert ours.grad_fn.name() != plain.grad_fn.name()
    assert torch.equal(ours, plain) and ours.is_contiguous(memory_format=memory_format)
    upstream = torch.randn_like(plain)
    assert torch.equal(torch.autograd.grad(ours, x, upstream)[0], torch.autograd.grad(plain, x, upstream)[0])


def test_the_compiler_knows_the_order_in_memory():
    x = torch.randn(2, 6, 8, 128, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)[:, :3]
    torch.library.opcheck(numba_pool._max_pool, (x.requires_grad_(), [4, 64]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pooling_keeps_the_dtype(dtype):
    x = torch.randn(1, 2, 4, 64, dtype=dtype, requires_grad=True)
    pooled = numba_pool.max_pool(x, (2, 32))
    assert pooled.dtype == dtype and torch.equal(pooled, max_pool_plain(x, (2, 32)))
    assert torch.autograd.grad(pooled.sum(), x)[0].dtype == dtype


def test_not_a_number_is_not_lost():
    x = torch.zeros(1, 1, 2, 64)
    x[0, 0, 1, 7] = torch.nan
    assert numba_pool.max_pool(x, (1, 32))[0, 0, 0].isnan().nonzero().tolist() == [[3]]
