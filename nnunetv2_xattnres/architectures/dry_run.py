"""Runs a network on tensors without content: every operation is called, nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn


def dry_run(network: nn.Module, shape: Sequence[int], *observers: AbstractContextManager) -> Any:
    """The output of ``network`` for an input of ``shape`` (``[B, C, *S]``), with its shape but no values.

    The network, on whatever device, is used as if it were on the CPU, and does not change. ``observers`` are entered
    around the forward pass.
    """
    with _without_content(), ExitStack() as stack:
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=isinstance(tensor, nn.Parameter))
            for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        }
        x = torch.empty(tuple(shape))
        for observer in observers:
            stack.enter_context(observer)
        return torch.func.functional_call(network, state, (x,))


def _without_content() -> AbstractContextManager:
    """New tensors have no content: fake ones of the CPU, or meta tensors where torch has moved its fake ones.

    Planners need shapes only, and both give these. What a training keeps in memory needs the fake ones: they alone tell
    the network that they are on a CPU.
    """
    try:  # a private module, so that a later torch may lack it: never imported at the top
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        return torch.device("meta")
    return FakeTensorMode()
