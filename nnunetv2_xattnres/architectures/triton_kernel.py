"""XAttnRes on an NVIDIA GPU as a pair of Triton kernels (eq. 4 to 8 with an analytic backward).

A program holds all channels of a few pixels. The forward kernel reads every entry once and keeps a running softmax; the
backward kernel computes everything again from the inputs, so that nothing but the inputs is kept between the two.
Smaller entries are interpolated by torch beforehand, in their own dtype.

Shapes: a contiguous entry is seen as ``[B, C, P]`` with P pixels and tiles ``[C, BLOCK_P]``; one in channels_last as
``[1, B * P, C]`` with tiles ``[BLOCK_P, C]``. C is padded to a power of two and masked.

This module needs triton. With ``TRITON_INTERPRET=1`` set before it is imported, the kernels run on a CPU, slowly, which
is how they are tested.
"""
# ruff: noqa: ANN001, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nnunetv2_xattnres.architectures.differentiable import link, memory_format_of
from nnunetv2_xattnres.errors import InputError

# Chosen without a measurement: few enough values that three float32 tiles fit in the registers of 4 to 8 warps
TILE_ELEMENTS = 2048
MIN_PIXELS = 16  # 32 bytes of half precision, the least that a GPU reads


@triton.jit
def _tile(P, C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Offsets and mask of a program's tile; in 64 bits, which large volumes need."""
    batch = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C).to(tl.int64)
    if CHANNELS_LAST:
        offsets = batch * P * C + pixel[:, None] * C + channel[None, :]
        mask = (pixel < P)[:, None] & (channel < C)[None, :]
    else:
        offsets = batch * P * C + channel[:, None] * P + pixel[None, :]
        mask = (channel < C)[:, None] & (pixel < P)[None, :]
    return offsets, mask


@triton.jit
def _query(query_ptr, C: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """The query, to be broadcast over the pixels of a tile."""
    channel = tl.arange(0, BLOCK_C)
    query = tl.load(query_ptr + channel, mask=channel < C, other=0.0)
    return query[None, :] if CHANNELS_LAST else query[:, None]


@triton.jit
def _over_pixels(x, CHANNELS_LAST: tl.constexpr):
    """One number per pixel, to be broadcast over the channels of a tile."""
    return x[:, None] if CHANNELS_LAST else x[None, :]


@triton.jit
def _attend(value, query, eps, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Logit and 1/rms per pixel (eq. 6)."""
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    rstd = 1.0 / tl.sqrt(tl.sum(value * value, axis) / C + eps)
    return tl.sum(value * query, axis) * rstd, rstd


@triton.jit
def _mix_kernel(
    values,
    query_ptr,
    out_ptr,
    eps,
    P,
    N: tl.constexpr,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    offsets, mask = _tile(P, C, BLOCK_P, BLOCK_C, CHANNELS_LAST)
    query = _query(query_ptr, C, BLOCK_C, CHANNELS_LAST)
    dtype = query.dtype
    mixed = tl.load(values[0] + offsets, mask=mask, other=0.0).to(dtype)
    largest, _ = _attend(mixed, query, eps, C, CHANNELS_LAST)
    total = tl.full([BLOCK_P], 1.0, dtype)
    for index in tl.static_range(1, N):
        value = tl.load(values[index] + offsets, mask=mask, other=0.0).to(dtype)
        logit, _ = _attend(value, query, eps, C, CHANNELS_LAST)
        new_largest = tl.maximum(largest, logit)
        decay = tl.exp(largest - new_largest)
        weight = tl.exp(logit - new_largest)
        mixed = mixed * _over_pixels(decay, CHANNELS_LAST) + value * _over_pixels(weight, CHANNELS_LAST)
        total = total * decay + weight
        largest = new_largest
    mixed = mixed / _over_pixels(total, CHANNELS_LAST)
    tl.store(out_ptr + offsets, mixed.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_kernel(
    values,
    query_ptr,
    grad_ptr,
    gradients,
    partial_ptr,
    eps,
    P,
    N: tl.constexpr,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    offsets, mask = _tile(P, C, BLOCK_P, BLOCK_C, CHANNELS_LAST)
    query = _query(query_ptr, C, BLOCK_C, CHANNELS_LAST)
    dtype = query.dtype
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(dtype)

    # First pass: the softmax, and the mean of <G, V> under it
    value = tl.load(values[0] + offsets, mask=mask, other=0.0).to(dtype)
    largest, _ = _attend(value, query, eps, C, CHANNELS_LAST)
    agreement = tl.sum(grad * value, axis)
    total = tl.full([BLOCK_P], 1.0, dtype)
    for index in tl.static_range(1, N):
        value = tl.load(values[index] + offsets, mask=mask, other=0.0).to(dtype)
        logit, _ = _attend(value, query, eps, C, CHANNELS_LAST)
        new_largest = tl.maximum(largest, logit)
        decay = tl.exp(largest - new_largest)
        weight = tl.exp(logit - new_largest)
        agreement = agreement * decay + tl.sum(grad * value, axis) * weight
        total = total * decay + weight
        largest = new_largest
    agreement = agreement / total

    # Second pass: every entry once more, most likely from the cache
    query_gradient = tl.zeros([BLOCK_C], dtype)
    for index in tl.static_range(N):
        value = tl.load(values[index] + offsets, mask=mask, other=0.0).to(dtype)
        logit, rstd = _attend(value, query, eps, C, CHANNELS_LAST)
        weight = tl.exp(logit - largest) / total
        along_query = weight * (tl.sum(grad * value, axis) - agreement) * rstd
        along_value = -along_query * logit * rstd / C
        query_gradient += tl.sum(value * _over_pixels(along_query, CHANNELS_LAST), 1 - axis)
        gradient = grad * _over_pixels(weight, CHANNELS_LAST)
        gradient += query * _over_pixels(along_query, CHANNELS_LAST)
        gradient += value * _over_pixels(along_value, CHANNELS_LAST)
        tl.store(gradients[index] + offsets, gradient.to(gradients[index].dtype.element_ty), mask=mask)
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    channel = tl.arange(0, BLOCK_C)
    tl.store(partial_ptr + program * C + channel, query_gradient, mask=channel < C)


# What triton.jit returns depends on TRITON_INTERPRET at the time of import
_INTERPRETED = not isinstance(_mix_kernel, triton.runtime.JITFunction)


def aggregate(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Softmax mixture of ``values``, the last of which has the size of the output; smaller ones are interpolated.

    Args:
        values: n tensors ``[B, C, *s]``, no axis longer than that of the last one, ``[B, C, *S]``, on a GPU.
        query: ``[C]``, float32 or float64, the pseudo-query times the RMSNorm scale; its dtype is computed in.
        eps: Added to the mean square.

    Raises:
        InputError: where Triton cannot run: on the CPU without its interpreter.
    """
    last = values[-1]
    if not last.is_cuda and not _INTERPRETED:
        raise InputError(
            f"the kernel 'triton' needs tensors on a CUDA device, and these are on {last.device.type!r}: move the "
            "network there, or let the kernel be chosen by device with use_kernel(None) or without --kernel"
        )
    memory_format = memory_format_of(last)
    mode = "bilinear" if last.ndim == 4 else "trilinear"
    with torch.autocast(last.device.type, enabled=False):  # it would interpolate in float32: twice the traffic
        entries = [
            value if value.shape[2:] == last.shape[2:] else F.interpolate(value, last.shape[2:], mode=mode)
            for value in values
        ]
        return _mix([entry.contiguous(memory_format=memory_format) for entry in entries], query.contiguous(), eps)


@torch.library.custom_op("xattnres::aggregate_triton", mutates_args=())
def _mix(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """The mixture of entries that all have the size and the memory format of the last one."""
    out = torch.empty_like(values[-1])
    grid, arguments = _launch(values)
    if out.numel():
        with torch.cuda.device_of(out):
            _mix_kernel[grid](tuple(values), query, out, eps, **arguments)
    return out


@torch.library.custom_op("xattnres::aggregate_triton_backward", mutates_args=())
def _mix_backward(values: Sequence[Tensor], query: Tensor, eps: float, grad: Tensor) -> list[Tensor]:
    """Gradients of :func:`_mix`: of the query, then of each value.

    With r = 1/rms, l = r <q, V>, a = softmax(l) and G the gradient of the output:
    dl_n = a_n (<G, V_n> - sum_m a_m <G, V_m>), dV_n = a_n G + dl_n r_n q - (dl_n l_n r_n^2 / C) V_n.
    The query's gradient is summed per program by the kernel and over the programs by torch: no atomics, so the same
    sum in every run.
    """
    gradients = [torch.empty_like(value) for value in values]
    grad = grad.contiguous(memory_format=memory_format_of(values[-1]))
    grid, arguments = _launch(values)
    partial = query.new_zeros((grid[0] * grid[1], query.numel()))
    if grad.numel():
        with torch.cuda.device_of(grad):
            _gradient_kernel[grid](tuple(values), query, grad, tuple(gradients), partial, eps, **arguments)
    return [partial.sum(0), *gradients]


link(_mix, _mix_backward)


def _launch(values: Sequence[Tensor]) -> tuple[tuple[int, int], dict[str, int | bool]]:
    """The grid (tiles of pixels, images) and the sizes that a kernel takes."""
    last = values[-1]
    batch, channels, *size = last.shape
    pixels = torch.Size(size).numel()
    channels_last = memory_format_of(last) != torch.contiguous_format
    if channels_last:  # pixels of all images follow one another
        batch, pixels = 1, batch * pixels
    block_channels = triton.next_power_of_2(channels)
    block_pixels = max(MIN_PIXELS, TILE_ELEMENTS // block_channels)
    return (triton.cdiv(pixels, block_pixels), batch), {
        "P": pixels,
        "N": len(values),
        "C": channels,
        "BLOCK_P": block_pixels,
        "BLOCK_C": block_channels,
        "CHANNELS_LAST": channels_last,
        "num_warps": 4 if block_channels * block_pixels <= 2 * TILE_ELEMENTS else 8,
    }
