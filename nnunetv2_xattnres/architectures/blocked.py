"""XAttnRes on a CPU, block by block (eq. 4 to 8 with an analytic backward).

The literal equations read and write every aligned entry at full resolution many times over, and a CPU spends its time
waiting for memory. Here a block of a few image rows of all entries is interpolated, weighted and summed while it is in
the cache, and computed again in the backward pass instead of being kept: nothing of the size of an aligned entry is
ever allocated but the output and the gradients.

Shapes: an entry ``[B, C, *s]`` is seen as planes ``[B, D, C, h, w]`` (``[B, D, h, w, C]`` in channels_last), with one
plane an image in 2D. A block holds the same rows of all n entries, ``[n, rows, C, W]`` (``[n, rows, W, C]``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_xattnres.architectures.differentiable import link

BLOCK_ELEMENTS = 1 << 20  # of all entries: a few MB, which caches hold
MAX_THREADS = 16  # more would wait for Python's interpreter lock


@torch.library.custom_op("xattnres::aggregate_blocked", mutates_args=(), device_types="cpu")
def aggregate(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Softmax mixture of ``values``, the last of which has the size of the output; smaller ones are interpolated.

    Args:
        values: n tensors ``[B, C, *s]``, no axis longer than that of the last one, ``[B, C, *S]``.
        query: ``[C]``, the pseudo-query times the RMSNorm scale.
        eps: Added to the mean square.
    """
    blocks = _Blocks(values, query, eps)
    out = torch.empty_like(values[-1])
    out_planes = _planes(out, blocks.channels_last)

    def mix(plane: tuple[int, int], band: range) -> None:
        widened = blocks.widen(plane)
        scratch = blocks.scratch()
        mixed = torch.empty_like(scratch[0])
        for rows in blocks.row_slices(band):
            block = blocks.fill(scratch, plane, rows, widened)
            weights = blocks.attend(block)[0].unsqueeze(blocks.channel_dim)
            total = torch.mul(block[0], weights[0], out=mixed[: block.shape[1]])
            for entry, weight in zip(block[1:], weights[1:], strict=True):
                total.addcmul_(entry, weight)
            blocks.rows_of(out_planes[plane], rows).copy_(total)

    blocks.for_each_band(mix)
    return out


@torch.library.custom_op("xattnres::aggregate_blocked_backward", mutates_args=(), device_types="cpu")
def aggregate_backward(values: Sequence[Tensor], query: Tensor, eps: float, grad: Tensor) -> list[Tensor]:
    """Gradients of :func:`aggregate`: of the query, then of each value.

    With V the aligned entries, r = 1/rms, l = r <q, V>, a = softmax(l) and G the gradient of the output:
    dl_n = a_n (<G, V_n> - sum_m a_m <G, V_m>), dV_n = a_n G + dl_n r_n q - (dl_n l_n r_n^2 / C) V_n.
    """
    blocks = _Blocks(values, query, eps)
    grad_planes = _planes(grad, blocks.channels_last)
    gradients = [torch.empty_like(value) for value in values]
    targets = [
        _planes(gradient, blocks.channels_last) if full else torch.zeros_like(entry)
        for gradient, full, entry in zip(gradients, blocks.full, blocks.entries, strict=True)
    ]
    query_gradient = torch.zeros_like(blocks.query)
    lock = Lock()

    def differentiate(plane: tuple[int, int], band: range) -> None:
        widened = blocks.widen(plane)
        scratch = blocks.scratch()
        upstream = torch.empty_like(scratch[0])
        wide_gradients = [None if wide is None else torch.zeros_like(wide) for wide in widened]
        scale_gradients = [None if wide is None else blocks.zero_rows(wide) for wide in widened]
        own_query_gradient = torch.zeros_like(query_gradient)
        for rows in blocks.row_slices(band):
            block = blocks.fill(scratch, plane, rows, widened)
            g = upstream[: block.shape[1]].copy_(blocks.rows_of(grad_planes[plane], rows))
            weights, logits, rstd = blocks.attend(block)
            agreement = torch.linalg.vecdot(block, g.unsqueeze(0), dim=blocks.channel_dim)
            dlogits = weights * (agreement - (weights * agreement).sum(0))
            along_query = dlogits * rstd
            along_value = (along_query * logits).mul_(rstd).mul_(-1 / blocks.channels)
            own_query_gradient += blocks.weighted_channel_sum(block, along_query)
            block.mul_(along_value.unsqueeze(blocks.channel_dim))
            block.addcmul_(g.unsqueeze(0), weights.unsqueeze(blocks.channel_dim))
            for index, target in enumerate(targets):
                if blocks.full[index]:
                    block[index].addcmul_(blocks.query, along_query[index].unsqueeze(blocks.channel_dim - 1))
                    blocks.rows_of(target[plane], rows).copy_(block[index])
                else:
                    blocks.add_rows(index, rows, block[index], wide_gradients[index])
                    blocks.add_rows(index, rows, along_query[index], scale_gradients[index])
        for index, wide in enumerate(wide_gradients):
            if wide is not None:  # q times a one-channel map, added here at low resolution instead of in every block
                wide.addcmul_(blocks.query, scale_gradients[index].unsqueeze(blocks.channel_dim - 1))
        narrowed = [None if wide is None else blocks.narrow(index, wide) for index, wide in enumerate(wide_gradients)]
        with lock:
            query_gradient.add_(own_query_gradient)
            for target, gradient in zip(targets, narrowed, strict=True):
                if gradient is not None:
                    target[plane].add_(gradient)

    blocks.for_each_band(differentiate)
    for gradient, full, target in zip(gradients, blocks.full, targets, strict=True):
        if not full:
            planes = _planes(gradient, blocks.channels_last)
            if planes.shape[1] != blocks.depth:
                matrix = _interpolation(blocks.depth, planes.shape[1], target.dtype)[0]
                target = torch.matmul(matrix.t(), target.flatten(2)).view(planes.shape)
            planes.copy_(target)
    return [query_gradient.flatten().to(query.dtype), *gradients]


link(aggregate, aggregate_backward)


class _Blocks:
    """The entries of one call, and the steps that forward and backward share."""

    def __init__(self, values: Sequence[Tensor], query: Tensor, eps: float) -> None:
        last = values[-1]
        self.eps = eps
        self.dtype = torch.float64 if last.dtype == torch.float64 else torch.float32
        self.channels_last = _is_channels_last(last)
        self.channel_dim = 3 if self.channels_last else 2
        planes = _planes(last, self.channels_last)
        self.batch, self.depth = planes.shape[:2]
        self.height, self.width = (planes.shape[2:4]) if self.channels_last else planes.shape[3:]
        self.channels = last.shape[1]
        self.query = query.to(self.dtype) if self.channels_last else query.to(self.dtype)[:, None]
        self.full = [value.shape[2:] == last.shape[2:] for value in values]
        self.entries = [self._deepen(value, full) for value, full in zip(values, self.full, strict=True)]
        rows = BLOCK_ELEMENTS // (len(values) * self.channels * self.width)
        self.rows = max(1, min(self.height, rows))

    def _deepen(self, value: Tensor, full: bool) -> Tensor:
        """The planes of an entry, interpolated along the first axis of a volume."""
        planes = _planes(value, self.channels_last)
        if full:
            return planes
        planes = planes.to(self.dtype)
        if planes.shape[1] != self.depth:
            matrix = _interpolation(self.depth, planes.shape[1], self.dtype)[0]
            planes = torch.matmul(matrix, planes.flatten(2)).view(self.batch, self.depth, *planes.shape[2:])
        return planes.contiguous()

    def for_each_band(self, work: Callable[[tuple[int, int], range], None]) -> None:
        """Call ``work`` for every plane, or for bands of its rows where there are fewer planes than threads.

        The threads are ours, one operation of PyTorch runs on one thread meanwhile: the operations on a block are so
        short that PyTorch's own threads would mostly wait for each other, on a busy machine for milliseconds each.
        """
        threads = torch.get_num_threads()
        planes = [(b, d) for b in range(self.batch) for d in range(self.depth)]
        bands = min(-(-threads // len(planes)), -(-self.height // self.rows))
        step = -(-self.height // bands)
        items = [(plane, range(y, min(y + step, self.height))) for plane in planes for y in range(0, self.height, step)]
        threads = min(threads, len(items), MAX_THREADS)
        if threads == 1:
            for plane, band in items:
                work(plane, band)
            return
        inference = torch.is_inference_mode_enabled()  # not handed on to a new thread by itself
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:

                def run(item: tuple[tuple[int, int], range]) -> None:
                    with torch.inference_mode(inference), torch.no_grad():
                        work(*item)

                list(pool.map(run, items))
        finally:
            torch.set_num_threads(before)

    def scratch(self) -> Tensor:
        pixel = (self.width, self.channels) if self.channels_last else (self.channels, self.width)
        return torch.empty((len(self.entries), self.rows, *pixel), dtype=self.dtype)

    def row_slices(self, band: range) -> Iterator[slice]:
        return (slice(y, min(y + self.rows, band.stop)) for y in range(band.start, band.stop, self.rows))

    def rows_of(self, plane: Tensor, rows: slice) -> Tensor:
        """The rows of a plane at full size, in the order of a block."""
        return plane[rows] if self.channels_last else plane[:, rows].transpose(0, 1)

    def widen(self, plane: tuple[int, int]) -> list[Tensor | None]:
        """Every smaller entry, interpolated along the width: ``[h, C, W]`` (``[h, W, C]``)."""
        widened: list[Tensor | None] = []
        for entry, full in zip(self.entries, self.full, strict=True):
            if full:
                widened.append(None)
            elif self.channels_last:
                wide = entry[plane]
                if wide.shape[1] != self.width:
                    wide = torch.matmul(_interpolation(self.width, wide.shape[1], self.dtype)[0], wide)
                widened.append(wide)
            else:
                wide = entry[plane].transpose(0, 1).contiguous()
                widened.append(wide if wide.shape[2] == self.width else F.interpolate(wide, self.width, mode="linear"))
        return widened

    def narrow(self, index: int, wide: Tensor) -> Tensor:
        """The adjoint of :meth:`widen` for one entry, as a plane."""
        width = self.entries[index].shape[3 if self.channels_last else 4]
        if self.channels_last:
            return wide if width == self.width else _interpolation(self.width, width, self.dtype)[0].t() @ wide
        if width != self.width:
            shape = [wide.shape[0], self.channels, width]
            wide = torch.ops.aten.upsample_linear1d_backward(wide, [self.width], shape, False, None)
        return wide.transpose(0, 1)

    def zero_rows(self, wide: Tensor) -> Tensor:
        return torch.zeros((wide.shape[0], self.width), dtype=self.dtype)

    def fill(self, scratch: Tensor, plane: tuple[int, int], rows: slice, widened: list[Tensor | None]) -> Tensor:
        """The rows of all entries at full size, ``[n, rows, C, W]``, in ``scratch``."""
        block = scratch[:, : rows.stop - rows.start]
        for target, entry, wide in zip(block, self.entries, widened, strict=True):
            if wide is None:
                target.copy_(self.rows_of(entry[plane], rows))
            elif wide.shape[0] == self.height:
                target.copy_(wide[rows])
            else:
                matrix, source = _band(self.height, wide.shape[0], self.dtype, rows.start, rows.stop)
                torch.mm(matrix, wide[source].flatten(1), out=target.view(target.shape[0], -1))
        return block

    def add_rows(self, index: int, rows: slice, gradient: Tensor, total: Tensor) -> None:
        """The adjoint of :meth:`fill` for a smaller entry, summed into ``total``."""
        if total.shape[0] == self.height:
            total[rows] += gradient
        else:
            matrix, source = _band(self.height, total.shape[0], self.dtype, rows.start, rows.stop)
            total[source].view(matrix.shape[1], -1).addmm_(matrix.t(), gradient.view(matrix.shape[0], -1))

    def attend(self, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, logits and 1/rms of a block, each ``[n, rows, W]`` (eq. 6 and 7)."""
        mean_square = torch.linalg.vecdot(block, block, dim=self.channel_dim).div_(self.channels)
        rstd = mean_square.add_(self.eps).rsqrt_()
        if self.channels_last:
            logits = torch.matmul(block, self.query)
        else:
            logits = torch.matmul(self.query.t(), block).squeeze(2)
        logits = logits * rstd
        return logits.softmax(0), logits, rstd

    def weighted_channel_sum(self, block: Tensor, weights: Tensor) -> Tensor:
        """``sum over entries and pixels of weight * entry``, in the shape of ``query``."""
        if self.channels_last:
            return torch.matmul(weights.reshape(1, -1), block.reshape(-1, self.channels))[0]
        return torch.matmul(weights.unsqueeze(2), block.transpose(2, 3)).sum((0, 1)).view(-1, 1)


def _is_channels_last(x: Tensor) -> bool:
    memory_format = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=memory_format) and not x.is_contiguous()


def _planes(x: Tensor, channels_last: bool) -> Tensor:
    """A view ``[B, D, C, h, w]`` (``[B, D, h, w, C]``) of ``[B, C, *s]``."""
    x = x.unsqueeze(2) if x.ndim == 4 else x
    return x.permute(0, 2, 3, 4, 1) if channels_last else x.transpose(1, 2)


@lru_cache(maxsize=512)
def _interpolation(size: int, source: int, dtype: torch.dtype) -> tuple[Tensor, list[int], list[int]]:
    """Linear interpolation (``align_corners=False``) as a matrix ``[size, source]``, and each row's two columns."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * (source / size) - 0.5).clamp_(min=0)
    left = position.floor().long().clamp_(max=source - 1)
    right = (left + 1).clamp_(max=source - 1)
    fraction = position - left
    row = torch.arange(size)
    matrix = torch.zeros(size, source, dtype=torch.float64)
    matrix[row, left] = 1 - fraction
    matrix.index_put_((row, right), fraction, accumulate=True)
    return matrix.to(dtype), left.tolist(), right.tolist()


@lru_cache(maxsize=4096)
def _band(size: int, source: int, dtype: torch.dtype, start: int, stop: int) -> tuple[Tensor, slice]:
    """The rows ``start`` to ``stop`` of the matrix, and the source rows that they need."""
    matrix, left, right = _interpolation(size, source, dtype)
    columns = slice(left[start], right[stop - 1] + 1)
    return matrix[start:stop, columns].contiguous(), columns
