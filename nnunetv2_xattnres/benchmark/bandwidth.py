"""Memory bandwidth of the aggregation: the bytes that it must at least move, per second, beside those of a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures import XAttnRes
from nnunetv2_xattnres.architectures.xattnres import kernel_for
from nnunetv2_xattnres.benchmark.timing import gpu_seconds, seconds


def bandwidth(
    network: nn.Module,
    shape: Sequence[int],
    device: str,
    repeats: int,
    memory_format: torch.memory_format = torch.preserve_format,
) -> dict[str, float]:
    """``forward`` of the largest reader and ``copy`` of its output, in bytes per second.

    A GPU computes in float16, as in training. ``memory_format`` replaces the layout that the network uses.

    A forward pass must read n aligned entries and write one: (n + 1) P bytes if an entry has P bytes. A copy moves 2 P.
    A reader that does not store smaller entries at full size moves fewer bytes.
    """
    readers = [module for module in network.modules() if isinstance(module, XAttnRes) and module.projections]
    calls: list[tuple[XAttnRes, list[Tensor], list[Tensor]]] = []

    def keep_largest(module: XAttnRes, args: tuple[Sequence[Tensor], Tensor]) -> None:
        if not calls or _floor(module, args[1]) > _floor(calls[0][0], calls[0][1][-1]):
            calls[:] = [(module, *module.inputs(*args))]  # now, because the history grows

    hooks = [reader.register_forward_pre_hook(keep_largest) for reader in readers]
    with torch.inference_mode():
        with torch.autocast("cuda", dtype=torch.float16, enabled=torch.device(device).type == "cuda"):
            network.eval()(torch.rand(tuple(shape), device=device))
        for hook in hooks:
            hook.remove()
        module, features, weights = calls.pop()
        features = [feature.contiguous(memory_format=memory_format) if memory_format != torch.preserve_format
                    else feature for feature in features]  # fmt: skip
        x = features[-1]
        query, target = module.scaled_query(x), torch.empty_like(x)
        mix = kernel_for(x).mix
        return {
            "forward": _floor(module, x) / _median(lambda: mix(features, weights, query, module.eps), x, repeats),
            "copy": 2 * x.nbytes / _median(lambda: target.copy_(x), x, repeats),
        }


def _floor(module: XAttnRes, x: Tensor) -> int:
    return (len(module.projections) + 2) * x.nbytes


def _median(function: Callable[[], Tensor], x: Tensor, repeats: int) -> float:
    times = [gpu_seconds(function) if x.is_cuda else seconds(function, False) for _ in range(repeats + 1)]
    return median(times[1:])  # the first one is a warm-up
