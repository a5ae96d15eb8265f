"""XAttnRes on a GPU: with Triton as ``triton_reader.py`` says, and otherwise in plain torch.

Where Triton is missing, and on a CPU without Triton's interpreter, the mixture is plain torch on entries of full size,
which matrix products enlarge. It works on some images at a time, so that enlarged entries, which are made again in the
backward pass, stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels import aggregation, matrices
from nnunetv2_xattnres.architectures.kernels.available import triton_kernels

CHUNK_BYTES = 1 << 28  # of one entry at full size; the images that are worked on together


def forward(features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """The mixture, like the last of ``features``; see :func:`operators.define_mix`."""
    if not features[-1].numel():
        return torch.empty_like(features[-1])
    dtype = _dtype_of(features)
    kernels = _kernels_for(features, dtype)
    if kernels is not None:
        return kernels.forward(features, weights, query, eps, dtype)
    out = torch.empty_like(features[-1])
    call = _Call(features, weights, query, dtype)
    for images in call.chunks:
        out[images].copy_(_to_feature(aggregation.mix(call.entries(images), call.query, eps), call.size))
    return out


def backward(
    grad: Tensor, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float
) -> list[Tensor]:
    """The gradients of ``query``, of each feature and of each weight."""
    if not grad.numel():
        return [torch.zeros_like(tensor) for tensor in (query, *features, *weights)]
    dtype = _dtype_of(features)
    kernels = _kernels_for(features, dtype)
    if kernels is not None:
        return kernels.backward(grad, features, weights, query, eps, dtype)
    call = _Call(features, weights, query, dtype)
    of_features = [torch.empty_like(feature) for feature in features]
    of_query = torch.zeros_like(call.query)
    of_weights = [torch.zeros_like(weight, dtype=call.query.dtype) for weight in call.weights]
    for images in call.chunks:
        entries = call.entries(images)
        upstream = matrices.to_pixels(grad[images].to(dtype))
        part, gradients = aggregation.differentiate(entries, call.query, eps, upstream)
        entries.clear()
        of_query += part
        for index in range(len(features)):
            # taken off the list, which frees what is not needed any more
            of_features[index][images] = call.back_to_feature(index, gradients.pop(0), images, of_weights)
    return [
        of_query.to(query.dtype),
        *of_features,
        *(gradient.to(weight.dtype).view_as(weight) for gradient, weight in zip(of_weights, weights, strict=True)),
    ]


def _dtype_of(features: Sequence[Tensor]) -> torch.dtype:
    """The widest one."""
    return reduce(torch.promote_types, {feature.dtype for feature in features})


def _kernels_for(features: Sequence[Tensor], dtype: torch.dtype) -> ModuleType | None:
    return triton_kernels("triton_reader", features[-1], lambda kernels: kernels.takes(features, dtype))


class _Call:
    """The features of one call, and how they become entries."""

    def __init__(
        self, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, dtype: torch.dtype
    ) -> None:
        last = features[-1]
        self.features = features
        self.dtype = dtype
        self.query = query.to(torch.promote_types(torch.promote_types(dtype, torch.float32), query.dtype))
        self.weights = [weight.flatten(1).to(dtype) for weight in weights]
        projected = [index for index, feature in enumerate(features) if feature.shape[1] != last.shape[1]]
        self.weight_of = {index: number for number, index in enumerate(projected)}
        self.size = tuple(last.shape[2:])
        self.sizes = [tuple(feature.shape[2:]) for feature in features]

    @property
    def chunks(self) -> Iterator[slice]:
        """Images that are worked on together."""
        batch, *shape = self.features[-1].shape
        images = max(1, CHUNK_BYTES // max(1, math.prod(shape) * self.dtype.itemsize))
        parts = -(-batch // images)  # of about the same size
        ends = [batch * part // parts for part in range(parts + 1)]
        return (slice(start, stop) for start, stop in pairwise(ends))

    def entries(self, images: slice) -> list[Tensor]:
        """Every feature projected and enlarged (eq. 4), ``[B, P, C]``."""
        entries = []
        for index, feature in enumerate(self.features):
            part = feature[images].to(self.dtype)
            weight = self.weights[self.weight_of[index]] if index in self.weight_of else None
            pixels = matrices.to_pixels(part) if weight is None else matrices.project(part, weight)
            entries.append(matrices.enlarge(pixels, self.sizes[index], self.size))
        return entries

    def back_to_feature(self, index: int, gradient: Tensor, images: slice, of_weights: Sequence[Tensor]) -> Tensor:
        """Bring the gradient of an entry down to the feature's size and width; add that of the weight."""
        gradient = matrices.reduce(gradient, self.sizes[index], self.size)
        if index not in self.weight_of:
            return _to_feature(gradient, self.sizes[index])
        number = self.weight_of[index]
        own, weight_gradient = matrices.project_backward(gradient, self.features[index][images], self.weights[number])
        of_weights[number].add_(weight_gradient)
        return own


def _to_feature(pixels: Tensor, size: Sequence[int]) -> Tensor:
    return pixels.transpose(1, 2).unflatten(2, size)
