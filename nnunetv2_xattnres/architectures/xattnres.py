"""XAttnRes, the mechanism: cross-stage attention residuals (arXiv 2604.03297, eq. 4 to 8).

This file imports torch alone, so that it can be lifted into any other project.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

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
    if all(h % s == 0 for h, s in zip(have, size, strict=True)):
        return kernels_for(feature.device.type).max_pool(feature, list(size))
    return (F.adaptive_max_pool2d if len(have) == 2 else F.adaptive_max_pool3d)(feature, list(size))


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
        aggregate = kernels_for(x.device.type).aggregate
        values, recipes = self._values(history, x)
        with _recomputed(recipes):
            mixed = aggregate(values, self._scaled_query(x), self.eps)
        recipes.clear()  # PyTorch keeps the hooks, and so all that they refer to, until the backward pass
        return mixed

    def routing_weights(self, history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """The softmax weights (eq. 7), ``[B, K+1, *S]`` in float32: the history's entries in order, then ``x``."""
        if not self.projections:
            return torch.ones_like(x[:, :1], dtype=torch.float32)
        values, _ = self._values(history, x)
        with _without_autocast(x):
            return torch.stack(_weights(_upsampled(values), self._scaled_query(x), self.eps), dim=1)

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

    def _scaled_query(self, x: Tensor) -> Tensor:
        """``w * g`` in float32 (or float64): folded here, so that autograd gives both their gradients."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return self.query.to(dtype) * self.norm_weight.to(dtype)

    def _values(self, history: Sequence[Tensor] | History, x: Tensor) -> tuple[list[Tensor], list[_Recipe]]:
        """Every entry pooled and projected but not yet interpolated (eq. 4), and ``x``.

        A 1x1 convolution commutes with linear interpolation, so projecting first is exact and costs least. Also
        returned is how to make the projected ones again.
        """
        if len(history) != len(self.projections):
            raise ValueError(f"built for {len(self.projections)} history entries, called with {len(history)}")
        self._check("the current feature", x, x.shape[0], self.query.numel())
        values, recipes = [], []
        for index, (feature, project) in enumerate(zip(history, self.projections, strict=True)):
            width = self.query.numel() if isinstance(project, nn.Identity) else project.weight.shape[1]
            self._check(f"history entry {index}", feature, x.shape[0], width)
            size = [min(have, want) for have, want in zip(feature.shape[2:], x.shape[2:], strict=True)]
            if size != list(feature.shape[2:]):
                feature = history.pooled(index, size) if isinstance(history, History) else _max_pool(feature, size)
            if isinstance(project, nn.Identity):
                values.append(feature)
            else:
                values.append(_project(feature, project.weight))
                if feature.requires_grad and project.weight.requires_grad:  # otherwise, only one of them is kept anyway
                    recipes.append(_Recipe(values[-1], feature, project.weight))
        return [*values, x], recipes

    @staticmethod
    def _check(name: str, feature: Tensor, batch: int, channels: int) -> None:
        # the kernels read memory as far as the construction says
        if tuple(feature.shape[:2]) != (batch, channels):
            raise ValueError(f"{name} is {list(feature.shape)}, expected [{batch}, {channels}, ...]")


def _project(feature: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution; on a CPU a product of matrices, for which no channels have to be put in another order."""
    if feature.device.type == "cpu" and feature.is_contiguous():
        matrices = weight.flatten(1).expand(feature.shape[0], -1, -1)
        return torch.bmm(matrices, feature.flatten(2)).unflatten(2, feature.shape[2:])
    return (F.conv2d if feature.ndim == 4 else F.conv3d)(feature, weight)


class _Recipe(NamedTuple):
    """Of ``value``, the 1x1 convolution of ``feature`` with ``weight``."""

    value: Tensor
    feature: Tensor
    weight: Tensor


def _recomputed(recipes: Sequence[_Recipe]) -> AbstractContextManager[None]:
    """Let autograd keep the recipe of a tensor, whose parts it keeps anyway, instead of the tensor.

    The compiler decides for itself what to keep.
    """
    if not recipes or torch.compiler.is_compiling():
        return nullcontext()

    def pack(saved: Tensor) -> _Kept:
        for recipe in recipes:
            if saved.is_set_to(recipe.value):
                return _Kept((recipe.feature, recipe.weight), saved.dtype)
        return _Kept((saved,), saved.dtype)

    return torch.autograd.graph.saved_tensors_hooks(pack, _Kept.unpack)


class _Kept:
    """What autograd keeps of a tensor: itself, or the feature and the weight of which it is made again."""

    def __init__(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> None:
        self.parts, self.dtype = parts, dtype
        self.versions = [part._version for part in parts]

    def unpack(self) -> Tensor:
        if self.versions != [part._version for part in self.parts]:  # autograd looks only where there are no hooks
            raise RuntimeError(
                "one of the variables needed for the gradient of XAttnRes has been modified by an inplace operation: "
                "a history entry, the current feature or a parameter"
            )
        if len(self.parts) == 1:
            return self.parts[0]
        feature, weight = self.parts
        with torch.no_grad(), _without_autocast(feature):
            return _project(feature.to(self.dtype), weight.to(self.dtype))


def _without_autocast(x: Tensor) -> AbstractContextManager[None]:
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def aggregate_plain(values: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Eq. 5 to 8 in plain torch: interpolate ``values`` to the size of the last one, weight and sum them.

    Args:
        values: n tensors ``[B, C, *s]``, no axis longer than that of the last one, ``[B, C, *S]``.
        query: ``[C]``, the pseudo-query times the RMSNorm scale.
        eps: Added to the mean square.
    """
    with _without_autocast(values[-1]):
        entries = _upsampled(values)
        mixed = torch.zeros((), dtype=query.dtype, device=query.device)
        for weight, entry in zip(_weights(entries, query, eps), entries, strict=True):
            mixed = torch.addcmul(mixed, weight.unsqueeze(1), entry.to(query.dtype))
        return mixed.to(values[-1].dtype)


def _upsampled(values: Sequence[Tensor]) -> list[Tensor]:
    size = values[-1].shape[2:]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return [
        value if value.shape[2:] == size else F.interpolate(value, size=size, mode=mode, align_corners=False)
        for value in values
    ]


def _weights(entries: Sequence[Tensor], query: Tensor, eps: float) -> tuple[Tensor, ...]:
    """The softmax weight of each entry per pixel, ``[B, *S]`` (eq. 6 and 7)."""
    logits = []
    for entry in entries:
        entry = entry.to(query.dtype)
        rstd = (entry.square().mean(1) + eps).rsqrt()
        logits.append(torch.einsum("bc...,c->b...", entry, query) * rstd)
    return torch.stack(logits).softmax(0).unbind(0)


def max_pool_plain(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Max pooling of ``[B, C, *S]`` to ``size``, which divides S; faster than adaptive pooling."""
    window = [have // want for have, want in zip(feature.shape[2:], size, strict=True)]
    return (F.max_pool2d if len(window) == 2 else F.max_pool3d)(feature, window, window)


class _Kernels(NamedTuple):
    aggregate: Callable[[Sequence[Tensor], Tensor, float], Tensor] = aggregate_plain
    max_pool: Callable[[Tensor, Sequence[int]], Tensor] = max_pool_plain


# Faster forms by name; for each, the devices on which it is chosen by itself
_KERNELS: dict[str, _Kernels] = {"plain": _Kernels()}
_DEFAULT_KERNELS: dict[str, str] = {}
_forced_kernel: str | None = None


def register_kernel(
    name: str,
    aggregate: Callable[..., Tensor],
    max_pool: Callable[..., Tensor] = max_pool_plain,
    *,
    devices: Sequence[str] = (),
) -> None:
    """Offer a form of :func:`aggregate_plain` and of :func:`max_pool_plain`, the default one on ``devices``."""
    _KERNELS[name] = _Kernels(aggregate, max_pool)
    for device in devices:
        _DEFAULT_KERNELS[device] = name


def use_kernel(name: str | None) -> str | None:
    """Force one kernel for all instances (``plain`` always exists); ``None`` chooses by device again.

    Returns:
        What was forced before.

    Raises:
        ValueError: for an unknown name, with the valid ones.
    """
    global _forced_kernel
    if name is not None and name not in _KERNELS:
        raise ValueError(f"unknown kernel {name!r}: the valid names are {', '.join(_KERNELS)}")
    before, _forced_kernel = _forced_kernel, name
    return before


def kernels_for(device: str) -> _Kernels:
    """What runs on a device type, such as ``cpu``: what is forced, else the device's own, else the plain forms.

    TorchScript and forward-mode derivatives know PyTorch's own operations alone.
    """
    if torch.jit.is_tracing() or forward_ad._current_level >= 0:
        return _KERNELS["plain"]
    return _KERNELS[_forced_kernel or _DEFAULT_KERNELS.get(device, "plain")]


def _initial_query(channels: int, query_init: str) -> Tensor:
    query = torch.zeros(1, channels)
    if query_init == "random":
        nn.init.normal_(query, std=0.02)
    elif query_init == "kaiming_uniform":
        nn.init.kaiming_uniform_(query)
    elif query_init == "xavier_uniform":
        nn.init.xavier_uniform_(query)
    return query[0]
