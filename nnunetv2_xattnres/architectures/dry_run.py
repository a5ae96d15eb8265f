"""Runs a network on tensors without content: every operation is called, nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def dry_run(network: nn.Module, shape: Sequence[int], *observers: AbstractContextManager) -> Any:
    """The output of ``network`` for an input of ``shape`` (``[B, C, *S]``), with its shape but no values.

    The network, on whatever device, is used as if it stood on the CPU, and does not change. ``observers`` are entered
    around the forward pass.
    """
    with FakeTensorMode(), ExitStack() as stack:
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=isinstance(tensor, nn.Parameter))
            for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        }
        x = torch.empty(tuple(shape))
        for observer in observers:
            stack.enter_context(observer)
        return torch.func.functional_call(network, state, (x,))
