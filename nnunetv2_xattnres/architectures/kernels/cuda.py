"""XAttnRes on a GPU: smaller entries are enlarged by matrix products, and Triton kernels mix.

Works on some images at a time, so that enlarged entries, which are made again in the backward pass, stay small. Where
Triton is missing, and on a CPU without Triton's interpreter, the mixture is plain torch on entries of full size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels import aggregation, matrices
from nnunetv2_xattnres.architectures.kernels.available import triton_kernels
from nnunetv2_xattnres.architectures.kernels.operators import memory_format_of

ALIGNMENT = 16  # bytes that the kernels load at once
CHUNK_BYTES = 1 << 28  # of one entry at full size; the images that are worked on together


def forward(features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """The mixture, like the last of ``features``; see :func:`operators.define_mix`."""
    out = torch.empty_like(features[-1])
    if not out.numel():
        return out
    call = _Call(features, weights, query)
    for images in call.chunks:
        part = out if images is None else out[images]
        entries = call.entries(images)
        if call.triton is None:
            part.copy_(_to_feature(aggregation.mix(entries, call.query, eps), call.size))
            continue
        direct = call.fits(part)
        mixed = part if direct else torch.empty_like(entries[-1])
        full, small = call.split(entries)
        call.triton.mix([_plane(entry) for entry in full], small, call.heights, call.query, eps, _plane(mixed))
        if not direct:
            part.copy_(mixed)
    return out


def backward(
    grad: Tensor, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float
) -> list[Tensor]:
    """The gradients of ``query``, of each feature and of each weight."""
    call = _Call(features, weights, query)
    chunks = list(call.chunks) if grad.numel() else []
    of_features: list[Tensor | None] = [None] * len(features)
    if chunks != [None]:
        of_features = [torch.empty_like(feature) for feature in features]
    of_query = torch.zeros_like(call.query)
    of_weights = [torch.zeros_like(weight, dtype=call.query.dtype) for weight in call.weights]
    for images in chunks:
        entries = call.entries(images)
        upstream = (grad if images is None else grad[images]).to(call.dtype)
        if call.triton is None:
            part, gradients = aggregation.differentiate(entries, call.query, eps, matrices.to_pixels(upstream))
        else:
            part, gradients = call.differentiate(entries, eps, upstream)
        entries.clear()
        of_query += part
        for index, gradient in enumerate(gradients):
            own = call.back_to_feature(index, gradient, images, of_weights)
            if images is not None:
                of_features[index][images] = own
            elif own.dtype == features[index].dtype and own.stride() == torch.empty_like(features[index]).stride():
                of_features[index] = own
            else:
                of_features[index] = torch.empty_like(features[index]).copy_(own)
            gradients[index] = own = gradient = None  # frees what is not needed any more
    return [
        of_query.to(query.dtype),
        *of_features,
        *(gradient.to(weight.dtype).view_as(weight) for gradient, weight in zip(of_weights, weights, strict=True)),
    ]


class _Call:
    """The features of one call, and how they become entries."""

    def __init__(self, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor) -> None:
        last = features[-1]
        self.features = features
        self.dtype = last.dtype
        for feature in features:
            self.dtype = torch.promote_types(self.dtype, feature.dtype)
        self.query = query.to(torch.promote_types(torch.promote_types(self.dtype, torch.float32), query.dtype))
        self.query = self.query.contiguous()
        self.weights = [weight.flatten(1).to(self.dtype) for weight in weights]
        projected = [index for index, feature in enumerate(features) if feature.shape[1] != last.shape[1]]
        self.weight_of = {index: number for number, index in enumerate(projected)}
        self.size = tuple(last.shape[2:])
        self.sizes = [tuple(feature.shape[2:]) for feature in features]
        self.triton = triton_kernels("triton_kernels", last)
        # The Triton kernels interpolate along the first axis themselves.
        rows = [self.size[0] if self.triton is None else size[0] for size in self.sizes]
        self.enlarged = [(row, *self.size[1:]) for row in rows]
        self.format = memory_format_of(last)
        self.full = [index for index, size in enumerate(self.sizes) if size == self.size]
        # The smaller ones with most work per row come first.
        self.small = sorted((set(range(len(features))) - set(self.full)), key=lambda index: (self.sizes[index], index))
        self.heights = tuple(self.sizes[index][0] for index in self.small)

    @property
    def chunks(self) -> Iterator[slice | None]:
        """Images that are worked on together; ``None`` for all of them."""
        batch, *shape = self.features[-1].shape
        images = max(1, CHUNK_BYTES // max(1, math.prod(shape) * self.dtype.itemsize))
        parts = -(-batch // images)  # of about the same size
        if parts == 1:
            return iter((None,))
        ends = [batch * part // parts for part in range(parts + 1)]
        return (slice(start, stop) for start, stop in pairwise(ends))

    def entries(self, images: slice | None) -> list[Tensor]:
        """Every feature projected and enlarged (eq. 4).

        For the Triton kernels, those of full size are ``[B, C, *S]`` in the output's order in memory. All others are
        ``[B, P, C]``.
        """
        entries = []
        for index, feature in enumerate(self.features):
            part = (feature if images is None else feature[images]).to(self.dtype)
            weight = self.weights[self.weight_of[index]] if index in self.weight_of else None
            if self.triton is not None and self.sizes[index] == self.size:
                part = part.contiguous(memory_format=self.format)
                entries.append(_aligned(part if weight is None else matrices.project_like(part, weight)))
                continue
            pixels = matrices.to_pixels(part) if weight is None else matrices.project(part, weight)
            entries.append(_aligned(matrices.enlarge(pixels, self.sizes[index], self.enlarged[index])))
        return entries

    def split(self, entries: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Those of full size, and the smaller ones in the order of ``heights``."""
        return [entries[index] for index in self.full], [entries[index] for index in self.small]

    def fits(self, x: Tensor) -> bool:
        """Whether a kernel can read or write ``x`` where it lies."""
        return x.dtype == self.dtype and x.is_contiguous(memory_format=self.format) and x.data_ptr() % ALIGNMENT == 0

    def differentiate(self, entries: Sequence[Tensor], eps: float, grad: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the query and the entries."""
        full, small = self.split(entries)
        full_gradients = [torch.empty_like(entry) for entry in full]
        grad = _aligned(grad.contiguous(memory_format=self.format))
        of_query, small_gradients = self.triton.differentiate(
            [_plane(entry) for entry in full], small, self.heights, self.query, eps, _plane(grad),
            [_plane(gradient) for gradient in full_gradients],
        )  # fmt: skip
        gradients = dict(zip([*self.full, *self.small], [*full_gradients, *small_gradients], strict=True))
        return of_query, [gradients[index] for index in range(len(entries))]

    def back_to_feature(
        self, index: int, gradient: Tensor, images: slice | None, of_weights: Sequence[Tensor]
    ) -> Tensor:
        """Bring the gradient of an entry down to the feature's size and width; add that of the weight."""
        if gradient.ndim != 3:  # already like the feature
            if index not in self.weight_of:
                return gradient
            gradient = matrices.to_pixels(gradient)
        gradient = matrices.reduce(gradient, self.sizes[index], self.enlarged[index])
        if index not in self.weight_of:
            return _to_feature(gradient, self.sizes[index])
        number = self.weight_of[index]
        feature = self.features[index] if images is None else self.features[index][images]
        own, weight_gradient = matrices.project_backward(gradient, feature, self.weights[number])
        of_weights[number].add_(weight_gradient)
        return own


def _to_feature(pixels: Tensor, size: Sequence[int]) -> Tensor:
    return pixels.transpose(1, 2).unflatten(2, size)


def _plane(x: Tensor) -> Tensor:
    """``[B, C, *S]`` as ``[B, C, H, R]``."""
    return x if x.ndim == 4 else x.flatten(3)


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()
