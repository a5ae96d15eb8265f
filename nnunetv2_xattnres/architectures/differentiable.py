"""What the kernels share: the order in memory, shapes for tracing, and the link between forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import CustomOpDef


def link(forward: CustomOpDef, backward: CustomOpDef) -> None:
    """Make ``forward(values, query, eps)`` differentiable by ``backward(values, query, eps, grad)``.

    ``backward`` returns the gradient of the query, then of each value. Only the inputs are kept between the two.
    """

    def output_like(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
        return torch.empty_like(values[-1])

    def gradients_like(values: Sequence[Tensor], query: Tensor, eps: float, grad: Tensor) -> list[Tensor]:
        return [torch.empty_like(query), *(torch.empty_like(value) for value in values)]

    def save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        values, query, ctx.eps = inputs
        ctx.save_for_backward(query, *values)

    def differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
        query, *values = ctx.saved_tensors
        query_gradient, *gradients = backward(values, query, ctx.eps, grad)
        return gradients, query_gradient, None

    forward.register_fake(output_like)
    backward.register_fake(gradients_like)
    forward.register_autograd(differentiate, setup_context=save)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Channels_last only where ``x`` is that and nothing else: the rest is made contiguous."""
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    if x.is_contiguous(memory_format=channels_last) and not x.is_contiguous():
        return channels_last
    return torch.contiguous_format
