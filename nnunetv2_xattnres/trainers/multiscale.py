"""Trains on each batch at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Outputs = Tensor | list[Tensor]


def scaled_size(size: Sequence[int], scale: float, multiple: Sequence[int]) -> tuple[int, ...]:
    """``size`` times ``scale``, rounded to the nearest multiple; ``size`` itself for a scale of 1.

    Example:
        >>> scaled_size((352, 352), 0.75, (32, 32)), scaled_size((352, 352), 1.25, (32, 32))
        ((256, 256), (448, 448))
    """
    if scale == 1:
        return tuple(size)
    return tuple(max(1, int(have * scale / step + 0.5)) * step for have, step in zip(size, multiple, strict=True))


def forward_at_scale(network: nn.Module, bare: Any, x: Tensor, scale: float, multiple: Sequence[int]) -> Outputs:
    """The network's logits for ``x`` ``[B, C, H, W]``, computed at another size and resized to the size of ``x``.

    If the network resizes its input to an ``input_size``, this size is scaled; otherwise the batch is resized here.

    Args:
        network: The network to call, with the wrappers of DDP and ``torch.compile``.
        bare: The network without these wrappers.
        x: The batch.
        scale: Factor of the size; 1 changes nothing.
        multiple: The sides of the scaled size are multiples of these numbers.
    """
    if scale == 1:
        return network(x)
    own = getattr(bare, "input_size", None)
    if own is not None:
        bare.input_size = scaled_size(own, scale, multiple)
        try:
            return network(x)
        finally:
            bare.input_size = own
    size = x.shape[2:]
    outputs = network(F.interpolate(x, scaled_size(size, scale, multiple), mode="bilinear", antialias=True))
    if isinstance(outputs, Tensor):
        return F.interpolate(outputs, size, mode="bilinear")
    return [F.interpolate(output, size, mode="bilinear") for output in outputs]
