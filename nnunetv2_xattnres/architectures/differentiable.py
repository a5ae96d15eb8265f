"""What the kernels share: the order in memory, shapes for tracing, and the link between forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.library import CustomOpDef


def _output_like(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    return torch.empty_like(values[-1])


def link(forward: CustomOpDef, backward: CustomOpDef, outputs_like: Callable = _output_like) -> None:
    """Make ``forward(values, query, eps)`` differentiable by ``backward(values, query, eps, *kept, grad)``.

    Args:
        forward: Returns the output, or a tuple: the output and others without a gradient, all kept for ``backward``.
        backward: Given the gradient of the output, returns that of the query, then of each value.
        outputs_like: What ``forward`` returns, in shapes alone.
    """

    def gradients_like(values: Sequence[Tensor], query: Tensor, eps: float, *rest: Tensor) -> list[Tensor]:
        return [torch.empty_like(query), *(torch.empty_like(value) for value in values)]

    def save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        values, query, ctx.eps = inputs
        kept = output if isinstance(output, tuple) else ()
        ctx.kept = len(kept)
        ctx.save_for_backward(query, *kept, *values)

    def differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *unused: Tensor) -> tuple:
        query, *saved = ctx.saved_tensors
        kept, values = saved[: ctx.kept], saved[ctx.kept :]
        query_gradient, *gradients = backward(values, query, ctx.eps, *kept, grad)
        return gradients, query_gradient, None

    forward.register_fake(outputs_like)
    backward.register_fake(gradients_like)
    forward.register_autograd(differentiate, setup_context=save)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Channels_last only where ``x`` is that and nothing else: the rest is made contiguous."""
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    if x.is_contiguous(memory_format=channels_last) and not x.is_contiguous():
        return channels_last
    return torch.contiguous_format
