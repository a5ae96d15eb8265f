"""XAttnRes on a CPU, compiled by Numba (eq. 4 to 8 with an analytic backward).

The literal equations read and write every aligned entry at full resolution many times over, and a CPU spends its time
waiting for memory. Here a few pixels of all entries are interpolated, weighed and summed while they are in the cache,
and computed again in the backward pass instead of being kept: nothing of the size of an aligned entry is ever allocated
but the output and the gradients.

The compiled functions, in ``numba_rows.py``, work on a box of rows; boxes run side by side in threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nnunetv2_xattnres.architectures.differentiable import link
from nnunetv2_xattnres.architectures.numba_tensors import in_threads, layout, threads_for, volume

BLOCK_PIXELS = 256  # at least, of short rows: loops that are long enough for vector instructions to pay

# image, first and last slice, first and last row; the last ones are excluded
Box = tuple[int, int, int, int, int]


@torch.library.custom_op("xattnres::aggregate_numba", mutates_args=(), device_types="cpu")
def aggregate(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Softmax mixture of ``values``, the last of which has the size of the output; smaller ones are interpolated.

    Args:
        values: n tensors ``[B, C, *s]``, no axis longer than that of the last one, ``[B, C, *S]``.
        query: ``[C]``, the pseudo-query times the RMSNorm scale.
        eps: Added to the mean square.
    """
    from nnunetv2_xattnres.architectures.numba_rows import mix  # imports Numba, which takes half a second

    call = _Call(values, query, eps)
    out = torch.empty_like(values[-1], dtype=call.dtype)
    target = layout(out)
    call.for_each_box(lambda box: mix(*call.arguments, box, target))
    return out.to(values[-1].dtype)


@torch.library.custom_op("xattnres::aggregate_numba_backward", mutates_args=(), device_types="cpu")
def aggregate_backward(values: Sequence[Tensor], query: Tensor, eps: float, grad: Tensor) -> list[Tensor]:
    """Gradients of :func:`aggregate`: of the query, then of each value.

    With V the aligned entries, r = 1/rms, l = r <q, V>, a = softmax(l) and G the gradient of the output:
    dl_n = a_n (<G, V_n> - sum_m a_m <G, V_m>), dV_n = a_n G + dl_n r_n q - (dl_n l_n r_n^2 / C) V_n.
    """
    from nnunetv2_xattnres.architectures.numba_rows import differentiate

    call = _Call(values, query, eps)
    grad = grad.to(call.dtype)
    upstream = layout(grad)
    gradients = [
        torch.empty_like(value, dtype=call.dtype) if full else torch.zeros_like(value, dtype=call.dtype)
        for value, full in zip(values, call.full, strict=True)
    ]
    query_gradient = torch.zeros_like(query, dtype=call.dtype)
    parts: dict[Box, tuple[np.ndarray, list[tuple[Tensor, Tensor]]]] = {}

    def differentiate_box(box: Box) -> None:
        own_query_gradient = np.zeros_like(call.query)
        layouts, shared = [], []
        for entry, gradient in enumerate(gradients):
            origin, part = call.shared_part(entry, gradient, box)
            if part is None:
                layouts.append(layout(gradient))
            else:  # another box adds to the same pixels
                own = torch.zeros_like(part)
                layouts.append(layout(own, origin))
                shared.append((part, own))
        differentiate(*call.arguments, box, upstream, np.stack(layouts), own_query_gradient)
        parts[box] = own_query_gradient, shared

    call.for_each_box(differentiate_box)
    for box in sorted(parts):  # not in the order in which threads end: the same sums to the last bit in every run
        own_query_gradient, shared = parts[box]
        query_gradient.add_(torch.from_numpy(own_query_gradient))
        for part, own in shared:
            part.add_(own)
    return [
        query_gradient.to(query.dtype),
        *(gradient.to(value.dtype) for gradient, value in zip(gradients, values, strict=True)),
    ]


link(aggregate, aggregate_backward)


class _Call:
    """The entries of one call as the compiled functions take them, and its division into boxes of rows."""

    def __init__(self, values: Sequence[Tensor], query: Tensor, eps: float) -> None:
        last = values[-1]
        self.dtype = torch.promote_types(last.dtype, torch.float32)
        self.query = query.to(self.dtype).contiguous().numpy()
        self._values = [value.to(self.dtype) for value in values]  # keeps alive what the layouts point to
        sizes = tuple(tuple(volume(value).shape[2:]) for value in values)
        self._size = sizes[-1]
        self.full = [size == self._size for size in sizes]
        self._taps = _taps(sizes, self.query.dtype.name)
        self._batch = last.shape[0]
        pixel = len(values) * last.shape[1]
        self.arguments = (
            np.stack([layout(value) for value in self._values]),
            np.array(self.full),
            self._taps,
            self._size,
            self.query,
            eps,
            max(1, min(BLOCK_PIXELS // self._size[2], self._size[1])),
        )
        self._threads = threads_for(pixel * self._batch * math.prod(self._size))
        self._axis = 0 if self._size[0] > 1 else 1  # that boxes divide
        self._bands = min(self._threads // math.gcd(self._threads, self._batch), self._size[self._axis])

    def for_each_box(self, work: Callable[[Box], None]) -> None:
        """Call ``work`` for every image, or for bands of its rows or slices where images do not fill the threads."""
        ends = [self._size[self._axis] * band // self._bands for band in range(self._bands + 1)]
        boxes: list[Box] = [
            (image, start, stop, 0, self._size[1]) if self._axis == 0 else (image, 0, 1, start, stop)
            for image in range(self._batch)
            for start, stop in pairwise(ends)
        ]
        in_threads(work, boxes, self._threads)

    def shared_part(self, entry: int, gradient: Tensor, box: Box) -> tuple[tuple[int, ...], Tensor | None]:
        """The part of a smaller entry that ``box`` reads and others may read as well, and where it begins."""
        if self.full[entry] or self._bands == 1:
            return (0,) * 5, None
        first, last = box[1:3] if self._axis == 0 else (self._size[0] + box[3], self._size[0] + box[4])
        left, right = self._taps[0][entry, first], self._taps[1][entry, last - 1]
        origin = [box[0], 0, 0, 0, 0]
        origin[2 + self._axis] = int(left)
        part = volume(gradient)[box[0] : box[0] + 1].narrow(2 + self._axis, int(left), int(right) + 1 - int(left))
        return tuple(origin), part


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
