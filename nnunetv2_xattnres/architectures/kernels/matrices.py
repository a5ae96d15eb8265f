"""Linear interpolation and projection as matrix products, with sums in float32 on a GPU's tensor cores.

Linear interpolation along one axis is the product with a constant matrix that has two non-zeros per row. Its gradient
is the product with the transpose: no atomics, the same in every run, for any ratio, in 2D and 3D.

Features are ``[B, P, C]`` here: the pixels of all axes in one, the channels side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=512)
def interpolation(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix ``[source, target]`` of linear interpolation (``align_corners=False``).

    The weights of a whole, even ratio up to 64 are exact in half precision.
    """
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    distance = (position - torch.arange(source, dtype=torch.float64).unsqueeze(1)).abs()
    return (1 - distance).clamp(min=0).to(dtype).to(device)


def enlarge(pixels: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Interpolate ``[B, P, C]`` from the size ``source`` to ``target``, the last axis first."""
    size = list(source)
    for axis in reversed(range(len(size))):
        if size[axis] != target[axis]:
            matrix = interpolation(size[axis], target[axis], pixels.dtype, pixels.device)
            pixels = _along(matrix.t(), pixels, size, axis)
            size[axis] = target[axis]
    return pixels


def reduce(gradient: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """The gradient of :func:`enlarge`: from the size ``target`` back to ``source``."""
    size = list(target)
    for axis in range(len(size)):
        if source[axis] != size[axis]:
            matrix = interpolation(source[axis], size[axis], gradient.dtype, gradient.device)
            gradient = _along(matrix, gradient, size, axis)
            size[axis] = source[axis]
    return gradient


def _along(matrix: Tensor, pixels: Tensor, size: Sequence[int], axis: int) -> Tensor:
    """The product of ``matrix`` and every line of ``pixels`` along ``axis``."""
    batch, _, channels = pixels.shape
    lines = batch * math.prod(size[:axis])
    stacked = pixels.reshape(lines, size[axis], math.prod(size[axis + 1 :]) * channels)
    return torch.bmm(matrix.expand(lines, -1, -1), stacked).view(batch, -1, channels)


def to_pixels(feature: Tensor) -> Tensor:
    """``[B, C, *S]`` as ``[B, P, C]``: a view of what is in channels_last, and otherwise a copy."""
    return feature.flatten(2).transpose(1, 2).contiguous()


def project(feature: Tensor, weight: Tensor) -> Tensor:
    """The 1x1 convolution of ``[B, C_k, *S]`` with ``[C, C_k]``, as ``[B, P, C]``; any order in memory."""
    return torch.matmul(feature.flatten(2).transpose(1, 2), weight.t())


def project_backward(gradient: Tensor, feature: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`project`: of the feature, in its order in memory, and of the weight, in float32."""
    pixels = feature.flatten(2).transpose(1, 2).to(gradient.dtype)
    if pixels.is_contiguous():
        of_feature = torch.matmul(gradient, weight).transpose(1, 2)
        groups = _groups(pixels.shape[0] * pixels.shape[1])
        of_weight = _float_bmm(gradient.reshape(groups, -1, gradient.shape[2]).transpose(1, 2),
                               pixels.view(groups, -1, pixels.shape[2])).sum(0)  # fmt: skip
    else:
        of_feature = torch.matmul(weight.t(), gradient.transpose(1, 2))
        of_weight = _float_bmm(gradient.transpose(1, 2), pixels).sum(0)
    return of_feature.unflatten(2, feature.shape[2:]), of_weight


def _groups(pixels: int) -> int:
    """Parts that a sum over so many pixels is divided into, so that they fill a GPU and each is long enough."""
    groups = 1
    while groups < 256 and pixels % (2 * groups) == 0 and pixels // (2 * groups) >= 256:
        groups *= 2
    return groups


def _float_bmm(a: Tensor, b: Tensor) -> Tensor:
    """The batched product in float32 (or float64): sums over many pixels leave the range of half precision."""
    if a.dtype.itemsize > 2:
        return torch.bmm(a, b)
    if a.is_cuda and _BMM_HAS_OUT_DTYPE:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


_BMM_HAS_OUT_DTYPE = hasattr(torch.ops.aten.bmm, "dtype")
