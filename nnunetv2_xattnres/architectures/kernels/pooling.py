"""Max pooling without autograd: the backward pass finds the maxima again instead of keeping their positions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels.available import triton_kernels
from nnunetv2_xattnres.architectures.kernels.operators import memory_format_of
from nnunetv2_xattnres.architectures.xattnres import max_pool_plain

aten = torch.ops.aten


def max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive max pooling of ``[B, C, *S]`` to ``[B, C, *size]``."""
    window, layout = _window(feature, size), memory_format_of(feature)
    kernels = _kernels_for(feature, window)
    if kernels is None:
        return max_pool_plain(feature, size).contiguous(memory_format=layout)
    feature = feature.contiguous(memory_format=layout)
    out = torch.empty((*feature.shape[:2], *size), dtype=feature.dtype, device=feature.device, memory_format=layout)
    kernels.max_pool(feature, out, window)
    return out


def max_pool_backward(feature: Tensor, grad: Tensor) -> Tensor:
    """The gradient of ``feature``: that of each window goes to the first of its maxima."""
    window, layout = _window(feature, grad.shape[2:]), memory_format_of(feature)
    kernels = _kernels_for(feature, window)
    if kernels is None:
        return _max_pool_backward(feature, grad, window).contiguous(memory_format=layout)
    feature, grad = feature.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    gradient = torch.empty_like(feature)
    kernels.max_pool_backward(feature, grad, gradient, window)
    return gradient


def _kernels_for(feature: Tensor, window: Sequence[int] | None) -> ModuleType | None:
    return triton_kernels(
        "triton_pooling", feature, lambda kernels: window is not None and feature.numel() <= kernels.MAX_ELEMENTS
    )


def _window(feature: Tensor, size: Sequence[int]) -> list[int] | None:
    """The windows where ``size`` divides the feature's."""
    have = feature.shape[2:]
    if any(h % s for h, s in zip(have, size, strict=True)):
        return None
    return [h // s for h, s in zip(have, size, strict=True)]


def _max_pool_backward(feature: Tensor, grad: Tensor, window: list[int] | None) -> Tensor:
    image, size = feature.ndim == 4, list(grad.shape[2:])
    if window is None:
        pool = F.adaptive_max_pool2d if image else F.adaptive_max_pool3d
        _, positions = pool(feature, size, return_indices=True)
        backward = aten.adaptive_max_pool2d_backward if image else aten.adaptive_max_pool3d_backward
        return backward(grad, feature, positions)
    _, positions = (F.max_pool2d if image else F.max_pool3d)(feature, window, window, return_indices=True)
    backward = aten.max_pool2d_with_indices_backward if image else aten.max_pool3d_with_indices_backward
    padding, dilation = [0] * len(window), [1] * len(window)
    return backward(grad, feature, window, window, padding, dilation, False, positions)
