"""Eq. 4 to 8 as the paper writes them, in whatever precision the inputs have: the oracle for the mechanism."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(h: Tensor, size: tuple[int, ...]) -> Tensor:
    """Each axis by its own rule: max pooling where it shrinks, then linear interpolation where it grows."""
    pooled = tuple(min(have, want) for have, want in zip(h.shape[2:], size, strict=True))
    if pooled != tuple(h.shape[2:]):
        h = (F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d)(h, pooled)
    if pooled != tuple(size):
        h = F.interpolate(h, size=size, mode="bilinear" if len(size) == 2 else "trilinear", align_corners=False)
    return h


def literal(
    history: list[Tensor], x: Tensor, projections: list[Tensor | None], w: Tensor, g: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``XAttnRes(H, x)`` (eq. 8) and the weights (eq. 7), ``[B, K+1, *S]``."""
    aligned = []
    for h, projection in zip(history, projections, strict=True):
        h = resize(h, tuple(x.shape[2:]))
        if projection is not None:
            h = torch.einsum("oc,bc...->bo...", projection.flatten(1), h)
        aligned.append(h)
    v = torch.stack([*aligned, x])  # eq. 5
    shape = (1, 1, -1) + (1,) * (x.ndim - 2)
    rms_norm = g.view(shape) * v / torch.sqrt(v.square().mean(2, keepdim=True) + eps)
    logits = (w.view(shape) * rms_norm).sum(2)  # eq. 6
    alpha = torch.exp(logits - logits.amax(0)) / torch.exp(logits - logits.amax(0)).sum(0)  # eq. 7
    return (alpha.unsqueeze(2) * v).sum(0), alpha.transpose(0, 1)
