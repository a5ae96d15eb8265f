"""One operator per reader: projection, enlargement and mixture of XAttnRes (eq. 4 to 8), with an analytic backward.

The compiler sees one node per reader, and autocast has no say inside. Nothing but the inputs is kept for the backward
pass. Schemas are strings, which every supported torch reads alike.

``torch.autograd.Function`` joins an operator and its gradient. ``torch.library.register_autograd`` does the same, but
takes longer on the host than a GPU takes for a small reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Forward = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor, float], Tensor]
Backward = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], Tensor, float], list[Tensor]]
_Arguments = ParamSpec("_Arguments")

_INPUTS = "Tensor[] features, Tensor[] weights, Tensor query, float eps"


def define_mix(name: str, forward: Forward, backward: Backward, *, device: str = "default") -> Forward:
    """Register ``xattnres::mix_NAME`` and ``xattnres::mix_NAME_backward``.

    Args:
        name: Of the form, such as ``cuda``.
        forward: ``(features, weights, query, eps)`` to the mixture ``[B, C, *S]``. ``features``: n tensors
            ``[B, C_k, *s_k]``, no axis longer than that of the last one, the current feature ``[B, C, *S]``.
            ``weights``: for each feature whose width is not C, in order, the projection ``[C, C_k, 1, ...]``.
            ``query``: ``[C]``, float32 or float64, the pseudo-query times the RMSNorm scale. The output has the dtype
            and the order in memory of the last feature.
        backward: ``(grad, features, weights, query, eps)`` to the gradients of the query, of each feature and of each
            weight, like these.
        device: The only device type that the functions know, such as ``cpu``; all by default.

    Returns:
        The operator with its gradient, to be called like ``forward``.
    """

    def like_output(features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
        return torch.empty_like(features[-1])

    def like_inputs(
        grad: Tensor, features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float
    ) -> list[Tensor]:
        return [torch.empty_like(tensor) for tensor in (query, *features, *weights)]

    operator = _define(f"mix_{name}", f"({_INPUTS}) -> Tensor", forward, like_output, device)
    gradient_of = _define(
        f"mix_{name}_backward", f"(Tensor grad, {_INPUTS}) -> Tensor[]", backward, like_inputs, device
    )

    class Mixture(torch.autograd.Function):
        """The operator with its gradient. Tensors are ``query``, then ``count`` features, then weights."""

        @staticmethod
        @_with_signature
        def forward(count: int, eps: float, query: Tensor, *tensors: Tensor) -> Tensor:
            return operator(tensors[:count], tensors[count:], query, eps)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.count, ctx.eps, *tensors = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            query, *tensors = ctx.saved_tensors
            return None, None, *gradient_of(grad, tensors[: ctx.count], tensors[ctx.count :], query, ctx.eps)

    def mix(features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
        return Mixture.apply(len(features), eps, query, *features, *weights)

    return mix


def define_max_pool(
    name: str,
    forward: Callable[[Tensor, Sequence[int]], Tensor],
    backward: Callable[[Tensor, Tensor], Tensor],
    *,
    device: str = "default",
) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """Register ``xattnres::max_pool_NAME`` and ``xattnres::max_pool_NAME_backward``.

    Args:
        name: Of the form.
        forward: ``(feature, size)``: adaptive max pooling of ``[B, C, *S]`` to ``[B, C, *size]``.
        backward: ``(feature, grad)`` to the gradient of ``feature``. It finds the maxima again.
        device: As in :func:`define_mix`.
    """

    def like_output(feature: Tensor, size: Sequence[int]) -> Tensor:
        shape, layout = (*feature.shape[:2], *size), memory_format_of(feature)
        return torch.empty(shape, dtype=feature.dtype, device=feature.device, memory_format=layout)

    def like_input(feature: Tensor, grad: Tensor) -> Tensor:
        return torch.empty_like(feature)

    operator = _define(f"max_pool_{name}", "(Tensor feature, SymInt[] size) -> Tensor", forward, like_output, device)
    gradient_of = _define(
        f"max_pool_{name}_backward", "(Tensor feature, Tensor grad) -> Tensor", backward, like_input, device
    )

    class Pooling(torch.autograd.Function):
        """The operator with its gradient."""

        @staticmethod
        @_with_signature
        def forward(feature: Tensor, size: Sequence[int]) -> Tensor:
            return operator(feature, size)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, Sequence[int]], output: Tensor) -> None:
            ctx.save_for_backward(inputs[0])

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
            return gradient_of(*ctx.saved_tensors, grad), None

    return Pooling.apply


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Channels_last only where ``x`` is that and nothing else: the rest is made contiguous."""
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    if x.is_contiguous(memory_format=channels_last) and not x.is_contiguous():
        return channels_last
    return torch.contiguous_format


def _with_signature(forward: Callable[_Arguments, Tensor]) -> Callable[_Arguments, Tensor]:
    """The same function, whose signature is computed once: PyTorch asks for it in each call."""
    vars(forward)["__signature__"] = signature(forward)
    return forward


# The compiler may pass tensors in whatever order in memory they are: the forms take any.
_TAGS = tuple(filter(None, (getattr(torch.Tag, "flexible_layout", None),)))


def _define(
    name: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any], device: str
) -> Callable[..., Any]:
    qualified = f"xattnres::{name}"

    def without_autocast(*arguments: Any) -> Any:
        first = arguments[0] if isinstance(arguments[0], Tensor) else arguments[0][0]
        if not torch.is_autocast_enabled(first.device.type):
            return function(*arguments)
        with torch.autocast(first.device.type, enabled=False):  # it would change the dtype of products
            return function(*arguments)

    torch.library.define(qualified, schema, tags=_TAGS)
    torch.library.impl(qualified, device, without_autocast)
    torch.library.register_fake(qualified, fake)
    return getattr(torch.ops.xattnres, name)
