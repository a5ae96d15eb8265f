"""The network as a program of ``torch.export``, made of PyTorch's own operations alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import fx, nn

from nnunetv2_xattnres.architectures import use_kernel
from nnunetv2_xattnres.errors import InputError

IMAGE, LOGITS, BATCH = "image", "logits", "batch"
_NAMESPACES = {"aten", "prim", "prims", "higher_order", "_operator", "builtins", "math"}


def trace(
    network: nn.Module, channels: int, patch: Sequence[int], *, any_batch: bool = True
) -> torch.export.ExportedProgram:
    """The program of a network for tiles ``[batch, channels, *patch]``, with a batch of any length, or of one.

    The spatial size is fixed, because nnU-Net predicts tiles of one size.

    Raises:
        InputError: ``torch.export`` cannot trace the network, or the program has operations that are not PyTorch's own.
    """
    # an example with a batch of one would fix the batch
    example = torch.zeros(2 if any_batch else 1, channels, *patch)
    shapes = ({0: torch.export.Dim(BATCH)},) if any_batch else None
    try:
        with torch.no_grad(), use_kernel("plain"):
            program = torch.export.export(network.eval(), (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # networks of other packages fail in their own ways
        raise InputError(f"torch.export cannot trace {type(network).__name__}: {reason(error)}") from error
    if foreign := foreign_operations(program):
        raise InputError("The network has operations that a program without their package cannot load.", foreign)
    for node in _nodes(program):
        node.meta.pop("stack_trace", None)  # it names files of this machine
    return program


def foreign_operations(program: torch.export.ExportedProgram) -> list[str]:
    """The operations of a program that are neither PyTorch's nor Python's own."""
    called = [node.target for node in _nodes(program) if node.op == "call_function"]
    return sorted({str(target) for target in called if _namespace(target) not in _NAMESPACES})


def reason(error: BaseException) -> str:
    """The first line of the error at the bottom of ``error``; PyTorch's exporters put pages around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program; ``torch.export.load`` reads it."""
    torch.export.save(program, path)


def _nodes(program: torch.export.ExportedProgram) -> Iterator[fx.Node]:
    for module in program.graph_module.modules():  # parts under autocast are modules of their own
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _namespace(target: object) -> str:
    if namespace := getattr(target, "namespace", None):  # an operator
        return namespace
    module = getattr(target, "__module__", "")
    return "aten" if module.split(".")[0] == "torch" else module
