"""Counts the costs of a network without running it: parameters, multiply-accumulates, activation memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_xattnres.architectures.dry_run import dry_run
from nnunetv2_xattnres.architectures.xattnres import XAttnRes, use_kernel

# convolutions and linear layers; batched products count in XAttnRes alone: those of attention are left out by the
# counters that papers use
_COUNTED = {torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm}


@dataclass(frozen=True)
class Cost:
    """The costs of one network.

    Attributes:
        parameters: Number of trainable values.
        macs: Multiply-accumulates of convolutions, linear layers and XAttnRes's matrix products, in one forward pass.
        activation_bytes: Peak bytes of the tensors in a forward pass of a training, which keeps those for the backward
            pass.
    """

    parameters: int
    macs: int
    activation_bytes: int


def count_cost(build: Callable[[], nn.Module], shape: Sequence[int]) -> Cost:
    """Cost of the network that ``build`` returns, for an input of ``shape`` (``[B, C, *S]``), in float32.

    The network is built without memory for its weights and runs on tensors without content. Every operation is really
    called, so the count is exact. Memory includes all tensors that PyTorch allocates, but not the weights, the input
    and the workspaces inside PyTorch's kernels.
    """
    with torch.device("meta"):
        network = build().train()
    live, flops = _LiveBytes(), FlopCounterMode(display=False)
    dry_run(network, shape, live)
    with use_kernel("plain"):  # the faster forms are one operation, in which the counter sees no products
        dry_run(network, shape, flops)
    counts = flops.get_flop_counts()
    flop = sum(count for operation, count in counts.get("Global", {}).items() if operation in _COUNTED)
    for name, module in network.named_modules():
        if isinstance(module, XAttnRes):
            flop += counts.get(f"{type(network).__name__}.{name}", {}).get(torch.ops.aten.bmm, 0)
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=flop // 2,
        activation_bytes=live.peak,
    )


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are created while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {
            id(tensor.untyped_storage())
            for tensor in tree_iter((args, kwargs or {}))
            if isinstance(tensor, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = id(storage)
                if key not in self._known and key not in before:  # neither a view nor changed in place
                    self._known.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
