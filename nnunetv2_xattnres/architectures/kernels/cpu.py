"""XAttnRes on a CPU, compiled by Numba: the forward and backward pass of one reader, and max pooling.

The literal equations read and write every aligned entry at full resolution many times over, and a CPU spends its time
waiting for memory. Here a few pixels of all entries are interpolated, weighed and summed while they are in the cache.
The backward pass computes them again. Nothing of the size of an aligned entry is ever allocated but the output and the
gradients.

The functions here are plain ones: ``operators.py`` registers them with PyTorch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels import pooling
from nnunetv2_xattnres.architectures.kernels.cpu_threads import Task, run, threads_for
from nnunetv2_xattnres.architectures.kernels.operators import memory_format_of

BLOCK_PIXELS = 256  # at least, of short rows: loops that are long enough for vector instructions to pay
MIN_WIDTH = 64  # of a row to pool whose elements do not lie side by side; PyTorch pools shorter ones faster

# image, first and last slice, first and last row; the last ones are excluded
Box = tuple[int, int, int, int, int]

_LOG = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether Numba can compile here; if not, one line on stderr says why, once.

    The first call imports Numba and loads the forward pass, or compiles it where it has never been compiled.
    """
    try:
        from nnunetv2_xattnres.architectures.kernels.cpu_loading import load

        load("mix", "float32")
    except Exception as error:  # whatever a broken installation raises: prediction must not depend on a compiler
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _LOG.warning("XAttnRes computes in plain PyTorch, which is slower: Numba cannot be used (%s)", reason)
        return False
    return True


def forward(features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """The output of one reader (eq. 4 to 8): project, interpolate, weigh and sum.

    A 1x1 convolution commutes with linear interpolation, so projecting first is exact and costs least.

    Args:
        features: n tensors ``[B, C_k, *s]``, no axis longer than that of the last one, ``[B, C, *S]``; their dtypes
            may differ.
        weights: ``[C, C_k]`` or ``[C, C_k, 1, 1(, 1)]`` for each feature with ``C_k != C``, in order.
        query: ``[C]``, float32 or float64, the pseudo-query times the RMSNorm scale.
        eps: Added to the mean square.

    Returns:
        ``[B, C, *S]`` in the dtype and memory format of the last feature. All is computed in the widest dtype of
        features and query, at least float32.
    """
    mixture = _Mixture(features, weights, query, eps)
    output = torch.empty_like(features[-1], dtype=mixture.dtype)
    mixture.run("mix", output)
    return output.to(features[-1].dtype)


def backward(
    grad: Tensor, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float
) -> list[Tensor]:
    """Gradients of :func:`forward`: of the query, then of each feature, then of each weight.

    With V the aligned entries, r = 1/rms, l = r <q, V>, a = softmax(l) and G the gradient of the output:
    dl_n = a_n (<G, V_n> - sum_m a_m <G, V_m>), dV_n = a_n G + dl_n r_n q - (dl_n l_n r_n^2 / C) V_n.

    The bits are the same in every run with the same number of threads.
    """
    mixture = _Mixture(features, weights, query, eps)
    query_gradient, gradients = mixture.gradients(grad.to(mixture.dtype))
    del mixture  # and so the projected entries
    remaining = iter(weights)
    feature_gradients, weight_gradients = [], []
    for feature in features:
        gradient = gradients.pop(0)  # not two copies of all of them at once
        if feature.shape[1] != query.numel():
            gradient, weight_gradient = _project_backward(gradient, feature, next(remaining))
            weight_gradients.append(weight_gradient)
        feature_gradients.append(gradient.to(feature.dtype))
    return [query_gradient.to(query.dtype), *feature_gradients, *weight_gradients]


def max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """The largest element of each window of ``feature``, ``[B, C, *S]``, as ``[B, C, *size]``.

    Where ``size`` does not divide S, the windows are those of adaptive pooling. The result is channels_last where
    ``feature`` is, else contiguous.

    PyTorch's own pooling keeps the position of every maximum in 64 bits, twice the memory of the pooled map itself, and
    is several times slower. Here the backward pass looks for the position again.
    """
    if not _is_compiled(feature, size):
        return pooling.max_pool(feature, size)
    exact = feature.to(torch.promote_types(feature.dtype, torch.float32))
    shape = (*feature.shape[:2], *size)
    output = torch.empty(shape, dtype=exact.dtype, memory_format=memory_format_of(feature))
    _pool("pool", exact, output)
    return output.to(feature.dtype)


def max_pool_backward(feature: Tensor, grad: Tensor) -> Tensor:
    """Gradient of :func:`max_pool`: that of each window goes to the first of its largest elements."""
    if not _is_compiled(feature, grad.shape[2:]):
        return pooling.max_pool_backward(feature, grad)
    exact = feature.to(torch.promote_types(feature.dtype, torch.float32))
    gradient = torch.empty_like(exact)
    _pool("unpool", exact, grad.to(exact.dtype), gradient)
    return gradient.to(feature.dtype)


def _is_compiled(feature: Tensor, size: Sequence[int]) -> bool:
    """Sizes that divide; but PyTorch is faster on short rows whose elements do not lie side by side."""
    divides = all(have % want == 0 for have, want in zip(feature.shape[2:], size, strict=True))
    return divides and (feature.stride(-1) == 1 or feature.shape[-1] >= MIN_WIDTH)


# ---- tensors as compiled functions take them
#
# Every tensor is seen as a volume [B, C, D, H, W], in whatever order it lies in memory; an image has D = 1. Its layout,
# int64[6], is the address of its first element, then the strides of the five axes in elements.


def _volume(x: Tensor) -> Tensor:
    return x.unsqueeze(2) if x.ndim == 4 else x


def _layout(x: Tensor, origin: Sequence[int] = (0,) * 5) -> list[int]:
    """Address and strides of a tensor whose first element is that at ``origin`` of the whole."""
    strides = _volume(x).stride()
    before = sum(index * stride for index, stride in zip(origin, strides, strict=True))
    return [x.data_ptr() - before * x.element_size(), *strides]


# ---- the mixture


class _Mixture:
    """The entries of one call as the compiled functions take them, and its division into boxes of rows."""

    def __init__(self, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> None:
        self.dtype = torch.float32
        for tensor in (*features, query):
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self._query = query.to(self.dtype).contiguous().numpy()
        remaining = iter(weights)
        self._values = [
            value if value.shape[1] == query.numel() else _project(value, next(remaining))
            for value in (feature.to(self.dtype) for feature in features)
        ]
        sizes = tuple(tuple(_volume(value).shape[2:]) for value in self._values)
        self._size = sizes[-1]
        self._full = [size == self._size for size in sizes]
        self._taps = _taps(sizes, self._query.dtype.name)
        self._eps = eps
        batch = features[-1].shape[0]
        self._threads = threads_for(len(features) * features[-1].numel())
        self._axis = 0 if self._size[0] > 1 else 1  # that boxes divide
        self._bands = min(self._threads // math.gcd(self._threads, batch), self._size[self._axis])
        # every image, or bands of its rows or slices where images do not fill the threads
        ends = [self._size[self._axis] * band // self._bands for band in range(self._bands + 1)]
        self._boxes: list[Box] = [
            (image, start, stop, 0, self._size[1]) if self._axis == 0 else (image, 0, 1, start, stop)
            for image in range(batch)
            for start, stop in pairwise(ends)
        ]

    def run(self, name: str, output: Tensor, keep: Sequence[Tensor] = (), **arguments: np.ndarray) -> None:
        """Run an entry point on every box; ``output`` is the output or its gradient."""
        from nnunetv2_xattnres.architectures.kernels.cpu_compiled import record_of
        from nnunetv2_xattnres.architectures.kernels.cpu_loading import load

        dtype = self._query.dtype.name
        depth, height, width = self._size
        left, right, near, far = self._taps
        task = Task(
            record_of("mixture", dtype),
            len(self._boxes),
            keep=[*self._values, output, *keep],
            boxes=np.array(self._boxes, np.int64),
            entries=len(self._values),
            channels=self._query.size,
            depth=depth,
            height=height,
            width=width,
            rows=max(1, min(BLOCK_PIXELS // width, height)),
            layouts=np.array([_layout(value) for value in self._values], np.int64),
            full=np.array(self._full, np.uint8),
            left=left,
            right=right,
            near=near,
            far=far,
            query=self._query,
            eps=np.array([self._eps], np.float64),
            output=np.array(_layout(output), np.int64),
            **arguments,
        )
        run(load(name, dtype), task, self._threads)

    def gradients(self, grad: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the query and of each projected entry."""
        gradients = [
            torch.empty_like(value) if full else torch.zeros_like(value)
            for value, full in zip(self._values, self._full, strict=True)
        ]
        layouts, shared = [], []
        for box in self._boxes:
            for entry, gradient in enumerate(gradients):
                origin, part = self._shared_part(entry, gradient, box)
                if part is None:
                    layouts.append(_layout(gradient))
                else:  # another box adds to the same pixels
                    own = torch.zeros_like(part)
                    layouts.append(_layout(own, origin))
                    shared.append((part, own))
        query_gradients = np.zeros((len(self._boxes), self._query.size), self._query.dtype)
        self.run(
            "differentiate",
            grad,
            keep=[*gradients, *(own for _, own in shared)],
            gradients=np.array(layouts, np.int64),
            query_gradients=query_gradients,
        )
        for part, own in shared:  # not in the order in which threads end: the same sums to the last bit in every run
            part.add_(own)
        return torch.from_numpy(query_gradients.sum(0)), gradients

    def _shared_part(self, entry: int, gradient: Tensor, box: Box) -> tuple[Sequence[int], Tensor | None]:
        """The part of a smaller entry that ``box`` reads and others may read as well, and where it begins."""
        if self._full[entry] or self._bands == 1:
            return (0,) * 5, None
        first, last = box[1:3] if self._axis == 0 else (self._size[0] + box[3], self._size[0] + box[4])
        left, right = int(self._taps[0][entry, first]), int(self._taps[1][entry, last - 1])
        origin = [box[0], 0, 0, 0, 0]
        origin[2 + self._axis] = left
        part = _volume(gradient)[box[0] : box[0] + 1].narrow(2 + self._axis, left, right + 1 - left)
        return origin, part


@lru_cache(maxsize=512)
def _taps(sizes: tuple[tuple[int, ...], ...], dtype: str) -> tuple[np.ndarray, ...]:
    """Linear interpolation (``align_corners=False``) of every size to the last one: left, right, near, far."""
    tables = [[_axis_taps(have, want) for have, want in zip(size, sizes[-1], strict=True)] for size in sizes]
    types = (np.uint32, np.uint32, np.dtype(dtype), np.dtype(dtype))
    return tuple(
        np.stack([np.concatenate([axis[kind] for axis in table]) for table in tables]).astype(types[kind])
        for kind in range(4)
    )


def _axis_taps(source: int, size: int) -> tuple[np.ndarray, ...]:
    position = np.maximum((np.arange(size) + 0.5) * (source / size) - 0.5, 0)
    left = np.minimum(position.astype(np.int64), source - 1)
    right = np.minimum(left + 1, source - 1)
    far = np.where(left < right, position - left, 0)
    return left, right, 1 - far, far


# ---- the projection: products of matrices, in the order in which the channels lie in memory


def _project(feature: Tensor, weight: Tensor) -> Tensor:
    matrix = weight.to(feature.dtype).flatten(1)
    if feature.is_contiguous():
        matrices = matrix.expand(feature.shape[0], -1, -1)
        return torch.bmm(matrices, feature.flatten(2)).unflatten(2, feature.shape[2:])
    return F.linear(feature.movedim(1, -1), matrix).movedim(-1, 1)


def _project_backward(grad: Tensor, feature: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the feature, in the dtype of ``grad``, and of the weight."""
    matrix, exact = weight.to(grad.dtype).flatten(1), feature.to(grad.dtype)
    if exact.is_contiguous():
        upstream, matrices = grad.flatten(2), matrix.t().expand(feature.shape[0], -1, -1)
        of_feature = torch.bmm(matrices, upstream).unflatten(2, feature.shape[2:])
        of_weight = torch.bmm(upstream, exact.flatten(2).transpose(1, 2)).sum(0)
    else:
        upstream, pixels = (x.movedim(1, -1).flatten(0, -2) for x in (grad, exact))
        of_feature = (upstream @ matrix).view(*grad.movedim(1, -1).shape[:-1], -1).movedim(-1, 1)
        of_weight = upstream.t() @ pixels
    if of_feature.stride() != torch.empty_like(feature, device="meta").stride():
        of_feature = torch.empty_like(feature, dtype=grad.dtype).copy_(of_feature)
    return of_feature, of_weight.view_as(weight).to(weight.dtype)


# ---- max pooling


def _pool(name: str, feature: Tensor, pooled: Tensor, *gradient: Tensor) -> None:
    """Run an entry point on all planes, a few per thread."""
    from nnunetv2_xattnres.architectures.kernels.cpu_compiled import record_of
    from nnunetv2_xattnres.architectures.kernels.cpu_loading import load

    planes = feature.shape[0] * feature.shape[1]
    threads = max(1, min(planes, threads_for(feature.numel())))
    ends = [planes * part // threads for part in range(threads + 1)]
    dtype = str(feature.dtype).removeprefix("torch.")
    arguments: dict[str, Any] = {}
    for prefix, tensor in (("", feature), ("pooled_", pooled)):
        for axis, length in zip(("depth", "height", "width"), _volume(tensor).shape[2:], strict=True):
            arguments[prefix + axis] = length
    for key, tensor in zip(("feature", "pooled", "gradient"), (feature, pooled, *gradient), strict=False):
        arguments[key] = np.array(_layout(tensor), np.int64)
    task = Task(
        record_of("pooling", dtype),
        threads,
        keep=[feature, pooled, *gradient],
        parts=np.array(list(pairwise(ends)), np.int64),
        channels=feature.shape[1],
        **arguments,
    )
    run(load(name, dtype), task, threads)
