"""Max pooling on a CPU, compiled by Numba, for sizes that divide.

PyTorch's own keeps the position of every maximum in 64 bits, twice the memory of the pooled map itself, and is several
times slower. Here the backward pass looks for the position again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from nnunetv2_xattnres.architectures.differentiable import memory_format_of
from nnunetv2_xattnres.architectures.numba_tensors import in_threads, layout, threads_for, volume
from nnunetv2_xattnres.architectures.xattnres import max_pool_plain

MIN_WIDTH = 64  # of a row; shorter ones leave vector instructions nothing to do


def max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """The largest element of each window of ``feature``, ``[B, C, *S]``, as ``[B, C, *size]``; ``size`` divides S."""
    return _max_pool(feature, size) if feature.shape[-1] >= MIN_WIDTH else max_pool_plain(feature, size)


@torch.library.custom_op("xattnres::max_pool_numba", mutates_args=(), device_types="cpu")
def _max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    from nnunetv2_xattnres.architectures.numba_windows import largest

    exact = feature.to(torch.promote_types(feature.dtype, torch.float32))
    out = torch.empty_like(_pooled_like(feature, size), dtype=exact.dtype)
    _in_channels(largest, exact, out)
    return out.to(feature.dtype)


@torch.library.custom_op("xattnres::max_pool_numba_backward", mutates_args=(), device_types="cpu")
def _max_pool_backward(feature: Tensor, grad: Tensor) -> Tensor:
    from nnunetv2_xattnres.architectures.numba_windows import scatter

    exact = feature.to(torch.promote_types(feature.dtype, torch.float32))
    gradient = torch.empty_like(exact)
    _in_channels(scatter, exact, grad.to(exact.dtype), gradient)
    return gradient.to(feature.dtype)


def _pooled_like(feature: Tensor, size: Sequence[int]) -> Tensor:
    shape = (*feature.shape[:2], *size)
    return torch.empty(shape, dtype=feature.dtype, device=feature.device, memory_format=memory_format_of(feature))


def _in_channels(work: Callable[..., None], feature: Tensor, pooled: Tensor, *more: Tensor) -> None:
    planes = feature.shape[0] * feature.shape[1]
    threads = max(1, min(planes, threads_for(feature.numel())))
    ends = [planes * part // threads for part in range(threads + 1)]
    layouts = [layout(tensor) for tensor in (feature, pooled, *more)]
    sizes = [tuple(volume(tensor).shape[2:]) for tensor in (feature, pooled)]
    like = feature.new_empty(0).numpy()
    in_threads(lambda part: work(*layouts, *sizes, feature.shape[1], *part, like), pairwise(ends), threads)


@_max_pool.register_fake
def _(feature: Tensor, size: Sequence[int]) -> Tensor:
    return _pooled_like(feature, size)


@_max_pool_backward.register_fake
def _(feature: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(feature)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
    return _max_pool_backward(*ctx.saved_tensors, grad), None


_max_pool.register_autograd(_differentiate, setup_context=_save)
