"""A reader on a GPU with Triton: what is launched, and where in memory everything lies.

A GPU computes a reader faster than PyTorch starts its operations one after the other. So each step is one launch for
all entries (``triton_products.py``, ``triton_mixture.py``), whatever depends on shapes alone is planned once, and
intermediate results are parts of one buffer, which the kernels find by their addresses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_xattnres.architectures.kernels import matrices, triton_mixture, triton_products
from nnunetv2_xattnres.architectures.kernels.operators import memory_format_of
from nnunetv2_xattnres.architectures.kernels.triton_launch import (
    ALIGNMENT,
    INTERPRETED,
    ceil_div,
    table_for,
    write_table,
)
from nnunetv2_xattnres.architectures.kernels.triton_products import Group

# Of one entry at full size, for the images that are worked on together. Of the images of a backward pass there are half
# as many: it needs room for the gradients of smaller entries, and for three numbers per pixel and entry.
CHUNK_BYTES = 1 << 28


def takes(features: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether the kernels can work on features whose widest dtype is ``dtype``."""
    if dtype == torch.float64 and not INTERPRETED:  # not every Triton multiplies such matrices
        return False
    return all(feature.shape[1:].numel() <= triton_products.MAX_ELEMENTS for feature in features)


class Buffer(NamedTuple):
    """Where a tensor of some images lies."""

    owner: str  # "feature", "gradient" (of a feature), or "scratch", the buffer of intermediate results
    number: int  # of the feature, or of the first element in scratch
    elements: int  # of an image


class Middle(NamedTuple):
    """An entry of three axes whose second one PyTorch interpolates, between two buffers in scratch."""

    short: Buffer
    long: Buffer
    size: tuple[int, int, int]  # of the short one: lines along the first axis, of the second axis, numbers of the rest


class Plan:
    """What depends on shapes alone: the order of the entries, places in memory, and the numbers that kernels read.

    Entries are in the order of the kernels: those of full size, then the smaller ones, with most work per row first.
    """

    def __init__(
        self,
        shapes: tuple[torch.Size, ...],
        dtype: torch.dtype,
        channels_last: bool,
        device: torch.device,
        chunk_bytes: int,
    ) -> None:
        self.batch, self.channels, *size = shapes[-1]
        self.size = tuple(size)
        self.channels_last = channels_last
        images = max(1, chunk_bytes // max(1, math.prod(size) * self.channels * dtype.itemsize))
        parts = ceil_div(self.batch, images)  # of about the same size
        self.chunks = list(pairwise(self.batch * part // parts for part in range(parts + 1)))
        self.images = max(stop - start for start, stop in self.chunks)

        sizes = [tuple(shape[2:]) for shape in shapes]
        full = [index for index, own in enumerate(sizes) if own == self.size]
        small = sorted((index for index, own in enumerate(sizes) if own != self.size), key=lambda i: (sizes[i], i))
        self.full, self.small = len(full), len(small)
        self.heights = sum(sizes[index][0] for index in small)
        self.projected = [index for index, shape in enumerate(shapes) if shape[1] != self.channels]
        self.rows: list[int] = []
        self.sizes = self._group([(sizes[index][0], sizes[index][-1]) for index in small])
        self._plan_forward(shapes, full, small)
        self._plan_backward(shapes, full, small)
        self.rows_on_device = torch.tensor(self.rows or [0], dtype=torch.int32, device=device)

    def _plan_forward(self, shapes: Sequence[torch.Size], full: Sequence[int], small: Sequence[int]) -> None:
        """Entries, in the order of the kernels; features to project; entries that are yet to be interpolated."""
        self.scratch = 0
        self.copies: list[tuple[int, Buffer]] = []  # features whose channels must lie side by side
        self.middles: list[Middle] = []
        entries, written = [], {}
        for index in (*full, *small):
            shape = shapes[index]
            entry = Buffer("feature", index, shape[1:].numel())
            if index in self.projected:
                entry = written[index] = self._room(shape[2:].numel() * self.channels)
            elif index in small and not self.channels_last:
                entry = self._room(entry.elements)
                self.copies.append((index, entry))
            if len(self.size) == 3 and shape[3] != self.size[1]:
                longer = self._room(shape[2] * self.size[1] * shape[4] * self.channels)
                self.middles.append(Middle(entry, longer, (shape[2], shape[3], shape[4] * self.channels)))
                entry = longer
            entries.append(entry)
        self.forward_scratch = self.scratch
        features = [Buffer("feature", index, shapes[index][1:].numel()) for index in self.projected]
        targets = [written[index] for index in self.projected]
        self.forward = [*entries, *features, *targets]
        self.weights_from = len(self.forward)  # weights are the last in the table of a forward pass
        self._feature_at = {index: len(entries) + number for number, index in enumerate(self.projected)}
        rows = {}
        for number, index in enumerate(self.projected):
            at = self._feature_at[index]
            weight = self.weights_from + number
            rows[index] = (*self._extent(shapes[index]), at, weight, at + len(self.projected))
        some = [index for index in self.projected if index in full]
        others = [index for index in self.projected if index in small]
        if self.channels_last:
            some, others = self.projected, []
        self.project_full = self._group([rows[index] for index in some])
        self.project_small = self._group([rows[index] for index in others])

    def _plan_backward(self, shapes: Sequence[torch.Size], full: Sequence[int], small: Sequence[int]) -> None:
        """Gradients of entries, in the order of the kernels; the same brought down to the features' sizes."""
        self.scratch = 0
        base = len(self.forward) + len(self.projected)  # after the addresses of a forward pass
        self.backward: list[Buffer] = []
        self.middle_gradients: list[Middle] = []
        chains = {index: self._chain(index, shapes[index]) for index in (*full, *small)}
        self.backward += [chain[0] for chain in chains.values()]
        self.gradients_from = base
        places = {index: base + number for number, index in enumerate(chains)}
        shorten = []
        for index, chain in chains.items():
            shape = shapes[index]
            if shape[-1] != self.size[-1]:
                lines = shape[2] * (self.size[1] if len(self.size) == 3 else 1) * self.channels
                self.backward.append(chain[1])
                shorten.append((lines, shape[-1], places[index], base + len(self.backward) - 1))
                places[index] = base + len(self.backward) - 1
            if len(self.size) == 3 and shape[3] != self.size[1]:
                lines, inner = shape[2], shape[4]
                lines, inner = (lines, inner * self.channels) if self.channels_last else (lines * self.channels, inner)
                self.middle_gradients.append(Middle(chain[-1], chain[-2], (lines, shape[3], inner)))
                self.backward.append(chain[-1])
                places[index] = base + len(self.backward) - 1
        self.shorten = self._group(shorten)
        self.backward_scratch = self.scratch
        project, weights, sums = [], [], []
        self.partial = 0
        for number, index in enumerate(self.projected):
            width, pixels = self._extent(shapes[index])
            splits = triton_products.splits_of(self.images * pixels)
            self.backward.append(Buffer("gradient", index, width * pixels))
            target = base + len(self.backward) - 1
            weight = self.weights_from + number
            project.append((width, pixels, places[index], weight, target))
            weights.append((width, pixels, places[index], self._feature_at[index], splits, self.partial // 16))
            sums.append((width, number, splits, self.partial // 16))
            self.partial += _rounded(splits * self.channels * width)
        # the gradients of weights are the last in the table of a backward pass
        last = base + len(self.backward)
        self.project_backward = self._group(project)
        self.weights = self._group(weights)
        self.sums = self._group([(width, last + number, *rest) for width, number, *rest in sums])

    def _chain(self, index: int, shape: torch.Size) -> list[Buffer]:
        """The gradient of an entry with the output's lines, after these are shortened, and at its own size."""
        sizes = [[shape[2], *self.size[1:]]]
        for axis in reversed(range(1, len(self.size))):
            if shape[2 + axis] != self.size[axis]:
                sizes.append([*sizes[-1][:axis], shape[2 + axis], *sizes[-1][axis + 1 :]])
        chain = [math.prod(size) * self.channels for size in sizes]
        if index in self.projected:
            return [self._room(elements) for elements in chain]
        return [*(self._room(elements) for elements in chain[:-1]), Buffer("gradient", index, chain[-1])]

    @staticmethod
    def _extent(shape: torch.Size) -> tuple[int, int]:
        return shape[1], shape[2:].numel()

    def _room(self, elements: int) -> Buffer:
        """A part of scratch for so many elements per image."""
        buffer = Buffer("scratch", self.scratch, elements)
        self.scratch += _rounded(elements * self.images)
        return buffer

    def _group(self, rows: Sequence[tuple[int, ...]]) -> Group:
        group = Group(tuple(rows), len(self.rows))
        for row in rows:
            self.rows += row
        return group


def _rounded(elements: int) -> int:
    return ceil_div(elements, 16) * 16


def part_of(scratch: Tensor, buffer: Buffer, *shape: int) -> Tensor:
    """A buffer of that shape, ``[a, b, c]``."""
    _, inner, innermost = shape
    return scratch.as_strided(shape, (inner * innermost, innermost, 1), buffer.number)


plan_of = lru_cache(maxsize=256)(Plan)


def _prepared(x: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """``x`` where a kernel can read it as it lies; else a copy."""
    if x.dtype != dtype:
        x = x.to(dtype)
    if not x.is_contiguous(memory_format=memory_format):
        x = x.contiguous(memory_format=memory_format)
    return x.clone() if x.data_ptr() % ALIGNMENT else x


class _Reader:
    """The tensors of one call, as the kernels take them."""

    def __init__(
        self, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, dtype: torch.dtype, chunk_bytes: int
    ) -> None:
        last = features[-1]
        self.format = memory_format_of(last)
        self.features = [_prepared(feature, dtype, self.format) for feature in features]
        kind = weights[0].dtype if weights else dtype
        self.weights = [_prepared(weight, kind, torch.contiguous_format) for weight in weights]
        wanted = torch.promote_types(torch.promote_types(dtype, torch.float32), query.dtype)
        self.query = query if query.dtype == wanted and query.is_contiguous() else query.to(wanted).contiguous()
        self.last = self.features[-1]
        shapes = tuple(feature.shape for feature in features)
        channels_last = self.format != torch.contiguous_format
        self.plan = plan_of(shapes, dtype, channels_last, last.device, chunk_bytes)

    def addresses(
        self, buffers: Sequence[Buffer], scratch: Tensor, start: int, gradients: Sequence[Tensor] = ()
    ) -> list[int]:
        """Addresses of ``buffers``, for the images from ``start``."""
        size = self.last.element_size()
        owners = {
            "feature": [feature.data_ptr() for feature in self.features],
            "gradient": [gradient.data_ptr() for gradient in gradients],
        }
        base = scratch.data_ptr()
        return [
            base + number * size if owner == "scratch" else owners[owner][number] + start * elements * size
            for owner, number, elements in buffers
        ]

    def align(self, table: Tensor, scratch: Tensor, start: int, images: int) -> None:
        """Project the features, and interpolate what the kernels of the mixture do not (eq. 4)."""
        plan = self.plan
        for index, buffer in plan.copies:
            count = buffer.elements // plan.channels
            feature = self.features[index]
            at = feature.storage_offset() + start * buffer.elements
            pixels = feature.as_strided((images, count, plan.channels), (buffer.elements, 1, count), at)
            part_of(scratch, buffer, images, count, plan.channels).copy_(pixels)
        for group, out_last in ((plan.project_full, plan.channels_last), (plan.project_small, True)):
            if group.rows:
                triton_products.project(
                    table, plan.rows_on_device, group, plan.channels, self.last, self.weights[0], images,
                    backward=False, last=plan.channels_last, out_last=out_last,
                )  # fmt: skip
        for short, long, (lines, axis, inner) in plan.middles:
            if short.owner == "feature":
                source = self.features[short.number][start : start + images].movedim(1, -1)
            else:
                source = part_of(scratch, short, images * lines, axis, inner)
            target = part_of(scratch, long, images * lines, plan.size[1], inner)
            matrix = matrices.interpolation(axis, plan.size[1], self.last.dtype, self.last.device)
            source = source.view(images * lines, axis, inner)
            torch.bmm(matrix.t().expand(len(source), -1, -1), source, out=target)

    def bring_down(self, table: Tensor, scratch: Tensor, images: int, gradients: Sequence[Tensor], start: int) -> None:
        """Bring the gradients of smaller entries down to the sizes of these: the gradient of :meth:`align`."""
        plan = self.plan
        if plan.shorten.rows:
            triton_products.shorten(
                table, plan.rows_on_device, plan.shorten, plan.size[-1], plan.channels, self.last, images,
                last=plan.channels_last,
            )  # fmt: skip
        for short, long, (lines, axis, inner) in plan.middle_gradients:
            matrix = matrices.interpolation(axis, plan.size[1], self.last.dtype, self.last.device)
            source = part_of(scratch, long, images * lines, plan.size[1], inner)
            if short.owner == "gradient":
                gradient = gradients[short.number][start : start + images]
                target = gradient.movedim(1, -1) if plan.channels_last else gradient
            else:
                target = part_of(scratch, short, images * lines, axis, inner)
            torch.bmm(matrix.expand(len(source), -1, -1), source, out=target.view(images * lines, axis, inner))


def forward(
    features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """The mixture, like the last of ``features``; see :func:`operators.define_mix`. All is computed in ``dtype``."""
    out = torch.empty_like(features[-1])
    reader = _Reader(features, weights, query, dtype, CHUNK_BYTES)
    plan, last = reader.plan, reader.last
    direct = last is features[-1]
    target = out if direct else torch.empty_like(last)
    scratch = last.new_empty(plan.forward_scratch)
    with torch.cuda.device_of(last):
        for start, stop in plan.chunks:
            table = table_for(plan.weights_from + len(reader.weights), last)
            addresses = reader.addresses(plan.forward, scratch, start)
            write_table(table, [*addresses, *(weight.data_ptr() for weight in reader.weights)])
            reader.align(table, scratch, start, stop - start)
            part = target if len(plan.chunks) == 1 else target[start:stop]
            triton_mixture.mix(
                table, plan.rows_on_device, reader.query, eps, part, plan.full, plan.small, plan.channels_last
            )
    return out if direct else out.copy_(target)


def backward(
    grad: Tensor, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float, dtype: torch.dtype
) -> list[Tensor]:
    """The gradients of ``query``, of each feature and of each weight."""
    reader = _Reader(features, weights, query, dtype, CHUNK_BYTES // 2)
    plan, last = reader.plan, reader.last
    grad = _prepared(grad, dtype, reader.format)
    of_features, gradients = _like(features, reader.features)
    of_weights, weight_gradients = _like(weights, reader.weights)
    entries = last.new_empty(plan.forward_scratch)
    scratch = last.new_empty(plan.backward_scratch)
    partial = reader.query.new_empty(plan.partial * len(plan.chunks))
    of_query = None
    with torch.cuda.device_of(last):
        for number, (start, stop) in enumerate(plan.chunks):
            images = stop - start
            table = table_for(plan.weights_from + len(reader.weights) + len(plan.backward) + len(weights), last)
            addresses = reader.addresses(plan.forward, entries, start)
            addresses += [weight.data_ptr() for weight in reader.weights]
            addresses += reader.addresses(plan.backward, scratch, start, gradients)
            write_table(table, [*addresses, *(gradient.data_ptr() for gradient in weight_gradients)])
            reader.align(table, entries, start, images)
            part = triton_mixture.differentiate(
                table, plan.rows_on_device, plan.heights, reader.query, eps,
                grad if len(plan.chunks) == 1 else grad[start:stop],
                plan.full, plan.small, plan.gradients_from, plan.channels_last,
            )  # fmt: skip
            of_query = part if of_query is None else of_query.add_(part)
            reader.bring_down(table, scratch, images, gradients, start)
            if plan.projected:
                common = (table, plan.rows_on_device)
                triton_products.project(
                    *common, plan.project_backward, plan.channels, last, reader.weights[0], images,
                    backward=True, last=plan.channels_last, out_last=plan.channels_last,
                )  # fmt: skip
                triton_products.differentiate_weights(
                    *common, plan.weights, plan.channels, last, partial[number * plan.partial :], images,
                    last=plan.channels_last,
                )  # fmt: skip
        if plan.projected:
            triton_products.sum_weights(
                table, plan.rows_on_device, plan.sums, plan.channels, reader.weights[0], partial, len(plan.chunks),
                plan.partial,
            )  # fmt: skip
    for own, gradient in zip([*of_features, *of_weights], [*gradients, *weight_gradients], strict=True):
        if own is not gradient:
            own.copy_(gradient)
    assert of_query is not None  # an empty gradient never comes here
    return [of_query.to(query.dtype), *of_features, *of_weights]


def _like(tensors: Sequence[Tensor], prepared: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Room for the gradients of ``tensors``, and where the kernels write them: the same, or like ``prepared``."""
    gradients = [torch.empty_like(tensor) for tensor in tensors]
    return gradients, [
        gradient if tensor is other else torch.empty_like(other)
        for gradient, tensor, other in zip(gradients, tensors, prepared, strict=True)
    ]
