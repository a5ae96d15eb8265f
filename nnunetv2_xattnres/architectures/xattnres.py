"""XAttnRes, the mechanism: cross-stage attention residuals (arXiv 2604.03297, eq. 4 to 8).

This file imports torch alone, so that it can be lifted into any other project.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERY_INITS = ("zero", "random", "kaiming_uniform", "xavier_uniform")


class History:
    """The pool of all earlier stage outputs (eq. 3), with their max-pooled copies computed once for all readers.

    A plain list of tensors does as well: then each reader pools for itself.
    """

    def __init__(self) -> None:
        self._pyramids: list[list[Tensor]] = []

    def __len__(self) -> int:
        return len(self._pyramids)

    def __iter__(self) -> Iterator[Tensor]:
        return (pyramid[0] for pyramid in self._pyramids)

    def append(self, feature: Tensor) -> None:
        """Add the output of a stage, ``[B, C, *S]``."""
        self._pyramids.append([feature])

    def pooled(self, index: int, size: Sequence[int]) -> Tensor:
        """Entry ``index``, max-pooled to ``size``, from its smallest copy that gives the same values."""
        pyramid = self._pyramids[index]
        for level in reversed(pyramid):
            if tuple(level.shape[2:]) == tuple(size):
                return level
            if all(have % want == 0 for have, want in zip(level.shape[2:], size, strict=True)):
                break
        else:
            level = pyramid[0]
        pyramid.append(_max_pool(level, size))
        return pyramid[-1]


def _max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive max pooling to ``size``; the plain pooling where the sizes divide (much faster in channels_last)."""
    have = feature.shape[2:]
    dims = len(have)
    if all(h % s == 0 for h, s in zip(have, size, strict=True)):
        kernel = [h // s for h, s in zip(have, size, strict=True)]
        return (F.max_pool2d if dims == 2 else F.max_pool3d)(feature, kernel, kernel)
    return (F.adaptive_max_pool2d if dims == 2 else F.adaptive_max_pool3d)(feature, list(size))


class XAttnRes(nn.Module):
    """Softmax mixture, per pixel, of all earlier stage outputs and the current feature (eq. 4 to 8).

    Every history entry is brought to the size and width of the current feature (max pooling down, linear
    interpolation up, 1x1 projection), RMS-normalised over its channels to a key, and compared with one learned
    pseudo-query. The output is the softmax-weighted sum of the entries themselves. Statistics, logits, softmax and sum
    are computed in float32 whatever the autocast dtype; the output has the dtype of the current feature.

    Args:
        history_channels: Channels of each history entry, in order of computation. With no entry, the module has no
            parameters and returns the current feature.
        channels: Channels of the current feature.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        query_init: ``zero``, ``random`` (normal, std 0.02), ``kaiming_uniform`` or ``xavier_uniform`` (Table 5).
        eps: Added to the mean square of the channels.

    Raises:
        ValueError: for an unknown ``query_init``, or a history that does not fit the construction.

    Example:
        >>> stage = XAttnRes([8, 16], 16, nn.Conv2d)
        >>> history = [torch.rand(1, 8, 32, 32), torch.rand(1, 16, 16, 16)]
        >>> stage(history, torch.rand(1, 16, 16, 16)).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(
        self,
        history_channels: Sequence[int],
        channels: int,
        conv_op: type[nn.Conv2d] | type[nn.Conv3d],
        *,
        query_init: str = "zero",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if query_init not in QUERY_INITS:
            raise ValueError(f"unknown query_init {query_init!r}: the valid values are {', '.join(QUERY_INITS)}")
        self.eps = eps
        self.projections = nn.ModuleList(
            nn.Identity() if width == channels else conv_op(width, channels, 1, bias=False)
            for width in history_channels
        )
        if self.projections:
            self.query = nn.Parameter(_initial_query(channels, query_init))
            self.norm_weight = nn.Parameter(torch.ones(channels))

    def extra_repr(self) -> str:
        """Number of history entries."""
        return f"history={len(self.projections)}"

    def forward(self, history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """Mix ``history`` (each ``[B, C_k, *S_k]``) and ``x`` (``[B, C, *S]``) to ``[B, C, *S]`` (eq. 8)."""
        if not self.projections:
            return x
        entries = self._entries(history, x)
        weights = self._weights(entries, x)
        mixed = sum(w.unsqueeze(1) * v for w, v in zip(weights, entries, strict=True))
        return mixed.to(x.dtype)

    def routing_weights(self, history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """The softmax weights (eq. 7), ``[B, K+1, *S]`` in float32: the history's entries in order, then ``x``."""
        if not self.projections:
            return torch.ones_like(x[:, :1], dtype=torch.float32)
        return torch.stack(self._weights(self._entries(history, x), x), dim=1)

    def feature_map_size(self, history_sizes: Sequence[Sequence[int]], size: Sequence[int]) -> int:
        """Elements kept for the backward pass of one sample: pooled, projected and aggregated maps."""
        if not self.projections:
            return 0
        total = self.query.numel() * math.prod(size)
        for have, project in zip(history_sizes, self.projections, strict=True):
            small = [min(h, s) for h, s in zip(have, size, strict=True)]
            if not isinstance(project, nn.Identity):
                total += project.weight.shape[0] * math.prod(small)
            if small != list(have):
                width = self.query.numel() if isinstance(project, nn.Identity) else project.weight.shape[1]
                total += width * math.prod(small)
        return total

    def _entries(self, history: Sequence[Tensor] | History, x: Tensor) -> list[Tensor]:
        if len(history) != len(self.projections):
            raise ValueError(f"built for {len(self.projections)} history entries, called with {len(history)}")
        size = x.shape[2:]
        entries = []
        for index, (feature, project) in enumerate(zip(history, self.projections, strict=True)):
            small = [min(have, want) for have, want in zip(feature.shape[2:], size, strict=True)]
            if small != list(feature.shape[2:]):
                feature = history.pooled(index, small) if isinstance(history, History) else _max_pool(feature, small)
            value = project(feature)  # before the interpolation, with which a 1x1 convolution commutes
            if list(size) != small:
                mode = "bilinear" if len(size) == 2 else "trilinear"
                value = F.interpolate(value, size=size, mode=mode, align_corners=False)
            entries.append(value)
        return [*entries, x]

    def _weights(self, entries: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
        query = self.query.float() * self.norm_weight.float()
        logits = []
        for value in entries:
            value = value.float()
            rstd = (value.square().mean(1) + self.eps).rsqrt()
            logits.append(torch.einsum("bc...,c->b...", value, query) * rstd)
        return torch.stack(logits).softmax(0).unbind(0)


def _initial_query(channels: int, query_init: str) -> Tensor:
    query = torch.zeros(1, channels)
    if query_init == "random":
        nn.init.normal_(query, std=0.02)
    elif query_init == "kaiming_uniform":
        nn.init.kaiming_uniform_(query)
    elif query_init == "xavier_uniform":
        nn.init.xavier_uniform_(query)
    return query[0]
