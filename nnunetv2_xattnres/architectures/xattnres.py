"""XAttnRes, the mechanism: cross-stage attention residuals (arXiv 2604.03297, eq. 4 to 8).

This file imports torch alone, so that you can copy it into any other project.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

QUERY_INITS = ("zero", "random", "kaiming_uniform", "xavier_uniform")
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


class History:
    """The outputs of all earlier stages (eq. 3), whose max-pooled copies are computed once for all readers.

    A plain list of tensors also works; each reader then pools for itself. A reader whose activations
    ``torch.utils.checkpoint`` computes again needs that: give it ``list(history)``.
    """

    def __init__(self) -> None:
        self.entries: list[Tensor] = []
        self.levels: list[Tensor] = []  # the entries and their smaller copies
        self.owners: list[int] = []  # of each level, the index of its entry
        self._with_gradients = False

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.entries)

    def append(self, feature: Tensor) -> None:
        """Add the output of a stage, ``[B, C, *S]``."""
        self.owners.append(len(self.entries))
        self.levels.append(feature)
        self.entries.append(feature)
        self._with_gradients |= torch.is_grad_enabled()

    def pooled(self, index: int, size: Sequence[int]) -> Tensor:
        """Entry ``index``, max-pooled to ``size``, from its smallest copy that gives the same values."""
        level = _level_for(self.levels, self.owners, index, size)
        if tuple(level.shape[2:]) == tuple(size):
            return level
        copy = _max_pool(level, size)
        if self.can_share():
            self.levels.append(copy)
            self.owners.append(index)
        return copy

    def can_share(self) -> bool:
        """Whether copies that are made now serve later readers: with gradients, only those that have gradients."""
        return torch.is_grad_enabled() or not self._with_gradients


def _level_for(levels: Sequence[Tensor], owners: Sequence[int], index: int, size: Sequence[int]) -> Tensor:
    """The copy of an entry that has ``size``, or else the smallest one that gives the same values as pooling it."""
    pyramid = [level for level, owner in zip(levels, owners, strict=True) if owner == index]
    for level in reversed(pyramid):
        if all(have % want == 0 for have, want in zip(level.shape[2:], size, strict=True)):
            return level
    return pyramid[0]


def _max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    return kernel_for(feature).max_pool(feature, list(size))


def _read(
    levels: Sequence[Tensor], owners: Sequence[int], widths: Sequence[int], x: Tensor, weights: Sequence[Tensor],
    query: Tensor, norm_weight: Tensor, eps: float, name: str, share: bool,
) -> list[Tensor]:  # fmt: skip
    """A reader as one operator that consists of others.

    Args:
        levels: The history entries and their smaller copies.
        owners: Of each level, the index of its entry.
        widths: Channels of each entry, as the constructor got them.
        x: The current feature.
        weights: Of the projections.
        query: The pseudo-query.
        norm_weight: The RMSNorm scale.
        eps: Added to the mean square.
        name: The kernel.
        share: Whether other readers may want the levels, too.

    Returns:
        The mixture, and, to share, of each entry the level that it was made of.
    """
    entries = [levels[owners.index(index)] for index in range(max(owners, default=-1) + 1)]
    _check_shapes(entries, widths, x, query.numel())
    kernel, features = _KERNELS[name], []
    for index, entry in enumerate(entries):
        size = [min(have, want) for have, want in zip(entry.shape[2:], x.shape[2:], strict=True)]
        level = _level_for(levels, owners, index, size)
        features.append(level if list(level.shape[2:]) == size else kernel.max_pool(level, size))
    mixed = kernel.mix([*features, x], weights, _scaled(query, norm_weight, x), eps)
    return [mixed, *features] if share else [mixed]


torch.library.define(
    "xattnres::read",
    "(Tensor[] levels, int[] owners, int[] widths, Tensor x, Tensor[] weights, Tensor query, Tensor norm_weight,"
    " float eps, str name, bool share) -> Tensor[]",
)
torch.library.impl("xattnres::read", "CompositeImplicitAutograd", _read)


def _check_shapes(entries: Sequence[Tensor], widths: Sequence[int], x: Tensor, channels: int) -> None:
    """Refuse what compiled kernels, which trust the constructor's widths, would read out of bounds."""
    if len(entries) != len(widths):
        raise ValueError(f"built for {len(widths)} history entries, called with {len(entries)}")
    for index, (feature, width) in enumerate(zip([*entries, x], [*widths, channels], strict=True)):
        if feature.shape[0] != x.shape[0] or feature.shape[1] != width:
            name = f"history entry {index}" if index < len(entries) else "the current feature"
            raise ValueError(f"{name} is {list(feature.shape)}, expected [{x.shape[0]}, {width}, ...]")


def _is_smaller(x: Tensor, entry: Tensor) -> bool:
    """Whether ``x`` has a shorter axis than ``entry``, which is then pooled."""
    return any(own < have for own, have in zip(x.shape[2:], entry.shape[2:], strict=True))


def _scaled(query: Tensor, norm_weight: Tensor, x: Tensor) -> Tensor:
    """``w * g`` in float32 (or float64): folded here, so that autograd gives both their gradients."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return query.to(dtype) * norm_weight.to(dtype)


class XAttnRes(nn.Module):
    """Softmax mixture per pixel of all earlier stage outputs and the current feature (eq. 4 to 8).

    Every history entry is brought to the size and width of the current feature (max pooling down, linear interpolation
    up, 1x1 projection). Its key is the entry, RMS-normalised over its channels; its logit is the scalar product of the
    key and one learned pseudo-query. The output is the softmax-weighted sum of the entries themselves. Statistics,
    logits, softmax and sum are float32, also under autocast; the output has the dtype of the current feature.

    Args:
        history_channels: Channels of each history entry, in order of computation. Without entries, the module has no
            parameters and returns the current feature.
        channels: Channels of the current feature.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        query_init: ``zero``, ``random`` (normal, std 0.02), ``kaiming_uniform`` or ``xavier_uniform`` (Table 5).
        eps: Added to the mean square of the channels.
        gated: Not in the paper. The output is ``x + gate * (mixture - x)`` with one learned scalar ``gate``, which is 0
            at first, so that a network starts as the one without XAttnRes. At 1, the output is exactly eq. 8.

    Raises:
        ValueError: ``query_init`` is unknown, or a history does not fit ``history_channels``.

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
        gated: bool = False,
    ) -> None:
        super().__init__()
        if query_init not in QUERY_INITS:
            raise ValueError(f"unknown query_init {query_init!r}: the valid values are {', '.join(QUERY_INITS)}")
        self.eps = eps
        self.history_channels = list(history_channels)
        self.projections = nn.ModuleList(
            nn.Identity() if width == channels else conv_op(width, channels, 1, bias=False)
            for width in self.history_channels
        )
        if self.projections:
            self.query = nn.Parameter(_initial_query(channels, query_init))
            self.norm_weight = nn.Parameter(torch.ones(channels))
        self.gate = nn.Parameter(torch.zeros(())) if gated and self.projections else None

    def extra_repr(self) -> str:
        """Number of history entries."""
        return f"history={len(self.projections)}"

    def forward(self, history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """Mix ``history`` (each ``[B, C_k, *S_k]``) and ``x`` (``[B, C, *S]``) to ``[B, C, *S]`` (eq. 8)."""
        if not self.projections:
            return x
        if torch.compiler.is_dynamo_compiling() and (name := _kernel_name(x)) != "plain":
            return self._gated(x, self._as_one_node(history, x, name))
        features, weights = self.inputs(history, x)
        kernel = kernel_for(x, self.query, self.norm_weight, *weights, *features)
        mixed = kernel.mix(features, weights, self.scaled_query(x), self.eps)
        return self._gated(x, mixed)

    def _gated(self, x: Tensor, mixed: Tensor) -> Tensor:
        """``x`` where the gate is 0 and the mixture where it is 1, both bit for bit; there is no gate in the paper."""
        if self.gate is None:
            return mixed
        # in float32: the gate's gradient sums over all elements, which overflows in float16
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.lerp(x.to(dtype), mixed.to(dtype), self.gate.to(dtype)).to(x.dtype)

    def _as_one_node(self, history: Sequence[Tensor] | History, x: Tensor, name: str) -> Tensor:
        """The same for ``torch.compile``, which would take longest to trace the Python of :meth:`inputs`."""
        if not isinstance(history, History):
            levels, owners, share = list(history), list(range(len(history))), False
        else:
            levels, owners = history.levels, history.owners
            # Down the network, the size of x is new, and later readers use the copies. Up again, copies exist.
            share = len(levels) > 0 and _is_smaller(x, history.entries[-1]) and history.can_share()
        mixed, *features = torch.ops.xattnres.read(
            levels, owners, self.history_channels, x, self._weights(), self.query, self.norm_weight, self.eps, name,
            share,
        )  # fmt: skip
        if share:
            levels += features
            owners += range(len(features))
        return mixed

    def routing_weights(self, history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """The weights of the output, ``[B, K+1, *S]`` in float32: the history's entries in order, then ``x``.

        They are those of eq. 7. A gate scales them, and gives the rest of 1 to ``x``.
        """
        if not self.projections:
            return torch.ones_like(x[:, :1], dtype=torch.float32)
        features, weights = self.inputs(history, x)
        query = self.scaled_query(x)
        with _without_autocast(x):
            logits = [_logit(_align(*pair, x), query, self.eps) for pair in _projected(features, weights)]
            softmax = torch.stack(logits, dim=1).softmax(1)
            if self.gate is None:
                return softmax
            only_x = torch.zeros_like(softmax)
            only_x[:, -1] = 1
            return torch.lerp(only_x, softmax, self.gate.to(softmax.dtype))

    def mix_without(self, left_out: Collection[int], history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """The mixture where the weights of some entries are 0 and the others are scaled to a sum of 1 again.

        For the question of what an entry contributes, in plain torch. A gate stays as it is: what it passes of ``x``
        beside the mixture is never left out.

        Args:
            left_out: Indices of history entries; K, their number, stands for ``x``.
            history: As in :meth:`forward`.
            x: As in :meth:`forward`.

        Raises:
            ValueError: an index does not exist, or no entry is left.
        """
        features, weights = self.inputs(history, x)
        kept = [index for index in range(len(features)) if index not in left_out]
        if not kept or not all(0 <= index < len(features) for index in left_out):
            raise ValueError(f"entries {sorted(left_out)} cannot be left out of {len(features)}")
        with _without_autocast(x):
            entries = [_align(*pair, x) for pair in _projected(features, weights)]
            mixed = _mix([entries[index] for index in kept], self.scaled_query(x), self.eps).to(x.dtype)
            return self._gated(x, mixed)

    def feature_map_size(self, history_sizes: Sequence[Sequence[int]], size: Sequence[int]) -> int:
        """Elements kept for the backward pass of one sample: pooled and aggregated maps."""
        if not self.projections:
            return 0
        total = self.query.numel() * math.prod(size)
        for have, width in zip(history_sizes, self.history_channels, strict=True):
            small = [min(h, s) for h, s in zip(have, size, strict=True)]
            if small != list(have):
                total += width * math.prod(small)
        return total

    def scaled_query(self, x: Tensor) -> Tensor:
        """The pseudo-query times the RMSNorm scale, in float32 (or float64)."""
        return _scaled(self.query, self.norm_weight, x)

    def inputs(self, history: Sequence[Tensor] | History, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """All entries, pooled if they are larger than ``x`` (eq. 4), then ``x``; and the weights of the projections."""
        entries = history.entries if isinstance(history, History) else history
        _check_shapes(entries, self.history_channels, x, self.query.numel())
        features = []
        for index, feature in enumerate(entries):
            size = [min(have, want) for have, want in zip(feature.shape[2:], x.shape[2:], strict=True)]
            if size != list(feature.shape[2:]):
                feature = history.pooled(index, size) if isinstance(history, History) else _max_pool(feature, size)
            features.append(feature)
        return [*features, x], self._weights()

    def _weights(self) -> list[Tensor]:
        return [project.weight for project in self.projections if isinstance(project, CONVOLUTIONS)]


def mix_plain(features: Sequence[Tensor], weights: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Eq. 4 to 8 in plain torch, differentiable to any order.

    Args:
        features: n tensors ``[B, C_k, *s_k]``; the last one is ``[B, C, *S]``, and no axis of the others is longer.
        weights: The projections ``[C, C_k, 1, ...]`` of the features whose width is not C, in order.
        query: ``[C]``, the pseudo-query times the RMSNorm scale.
        eps: Added to the mean square.

    Returns:
        The mixture, ``[B, C, *S]``, in the dtype of the last feature.
    """
    last = features[-1]
    with _without_autocast(last):
        entries = [_align(*pair, last) for pair in _projected(features, weights)]
        return _mix(entries, query, eps).to(last.dtype)


def _projected(features: Sequence[Tensor], weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    """Every feature, and its projection where its width is not that of the last one."""
    weights = list(weights)
    width = features[-1].shape[1]
    return [(feature, None if feature.shape[1] == width else weights.pop(0)) for feature in features]


def _align(feature: Tensor, weight: Tensor | None, last: Tensor) -> Tensor:
    """A feature projected and enlarged to the last one's width and size (eq. 4).

    A 1x1 convolution commutes with linear interpolation, so projecting first is exact, and cheapest.
    """
    dims, size = last.ndim - 2, last.shape[2:]
    if weight is not None:
        feature = (F.conv2d if dims == 2 else F.conv3d)(feature, weight.to(feature.dtype))
    if feature.shape[2:] != size:
        mode = "bilinear" if dims == 2 else "trilinear"
        feature = F.interpolate(feature, size=size, mode=mode, align_corners=False)
    return feature


def _logit(entry: Tensor, query: Tensor, eps: float) -> Tensor:
    """The query's product with an entry's RMS-normalised channels per pixel, ``[B, *S]`` (eq. 5 and 6)."""
    entry = entry.to(query.dtype)
    rstd = (entry.square().mean(1) + eps).rsqrt()
    return torch.einsum("bc...,c->b...", entry, query) * rstd


def _mix(entries: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """The softmax-weighted sum of aligned entries (eq. 7 and 8), in the query's dtype."""
    weights = torch.stack([_logit(entry, query, eps) for entry in entries]).softmax(0)
    mixed = torch.zeros((), dtype=query.dtype, device=query.device)
    for weight, entry in zip(weights.unbind(0), entries, strict=True):
        mixed = torch.addcmul(mixed, weight.unsqueeze(1), entry.to(query.dtype))
    return mixed


def _without_autocast(x: Tensor) -> AbstractContextManager[None]:
    # tensors without memory do not support autocast
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def max_pool_plain(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive max pooling of ``[B, C, *S]`` to ``size``; plain pooling, which is faster, if ``size`` divides S."""
    have = feature.shape[2:]
    if all(h % s == 0 for h, s in zip(have, size, strict=True)):
        window = [h // s for h, s in zip(have, size, strict=True)]
        return (F.max_pool2d if len(window) == 2 else F.max_pool3d)(feature, window, window)
    return (F.adaptive_max_pool2d if len(have) == 2 else F.adaptive_max_pool3d)(feature, list(size))


class Kernel(NamedTuple):
    """One form of :func:`mix_plain` and of :func:`max_pool_plain`."""

    mix: Callable[[Sequence[Tensor], Sequence[Tensor], Tensor, float], Tensor] = mix_plain
    max_pool: Callable[[Tensor, Sequence[int]], Tensor] = max_pool_plain


# Faster forms by name, and the default form of each device type
_KERNELS: dict[str, Kernel] = {"plain": Kernel()}
_DEFAULT_KERNELS: dict[str, str] = {}
_forced_kernel: str | None = None

# since torch 2.7; before, an export was a compilation without Dynamo
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def register_kernel(name: str, kernel: Kernel, *, devices: Sequence[str] = ()) -> None:
    """Add a form of the mixture and of the pooling; it becomes the default on ``devices``."""
    _KERNELS[name] = kernel
    for device in devices:
        _DEFAULT_KERNELS[device] = name


class use_kernel:
    """Force one kernel for all instances (``plain`` always exists); ``None`` chooses by device again.

    It takes effect at once. As a context manager, it restores the previous choice at its end.

    Raises:
        ValueError: the name is unknown; the message has the valid ones.
    """

    def __init__(self, name: str | None) -> None:
        global _forced_kernel
        if name is not None and name not in _KERNELS:
            raise ValueError(f"unknown kernel {name!r}: the valid names are {', '.join(_KERNELS)}")
        self._before, _forced_kernel = _forced_kernel, name

    def __enter__(self) -> None:
        """The constructor has already forced the kernel."""

    def __exit__(self, *error: object) -> None:
        global _forced_kernel
        _forced_kernel = self._before


def kernel_for(*tensors: Tensor) -> Kernel:
    """The form for ``tensors``: the forced one, else that of the first tensor's device, else the plain form.

    TorchScript, exported programs and forward-mode derivatives only support PyTorch's own operations.
    """
    # Within torch.compile, torch 2.11 reports every compilation as an export.
    if not torch.compiler.is_dynamo_compiling() and (
        torch.jit.is_tracing() or _is_exporting() or any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)
    ):
        return _KERNELS["plain"]
    return _KERNELS[_kernel_name(tensors[0])]


def _kernel_name(x: Tensor) -> str:
    return _forced_kernel or _DEFAULT_KERNELS.get(x.device.type, "plain")


def _initial_query(channels: int, query_init: str) -> Tensor:
    query = torch.zeros(1, channels)
    if query_init == "random":
        nn.init.normal_(query, std=0.02)
    elif query_init == "kaiming_uniform":
        nn.init.kaiming_uniform_(query)
    elif query_init == "xavier_uniform":
        nn.init.xavier_uniform_(query)
    return query[0]
