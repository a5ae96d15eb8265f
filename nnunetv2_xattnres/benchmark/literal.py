"""XAttnRes computed literally as in eq. 4 to 8, for comparison: resize, project, stack, normalise, weigh, sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures import History, XAttnRes


class LiteralXAttnRes(XAttnRes):
    """XAttnRes with the same parameters and the same function, at the cost of the literal equations."""

    def forward(self, history: Sequence[Tensor] | History, x: Tensor) -> Tensor:
        """Eq. 8."""
        if not self.projections:
            return x
        size = x.shape[2:]
        down = F.adaptive_max_pool2d if x.ndim == 4 else F.adaptive_max_pool3d
        aligned = []
        for feature, project in zip(history, self.projections, strict=True):
            small = [min(have, want) for have, want in zip(feature.shape[2:], size, strict=True)]
            if small != list(feature.shape[2:]):
                feature = down(feature, small)
            if small != list(size):
                mode = "bilinear" if x.ndim == 4 else "trilinear"
                feature = F.interpolate(feature, size=size, mode=mode, align_corners=False)
            aligned.append(project(feature))
        values = torch.stack([*aligned, x])
        values = values.to(torch.promote_types(values.dtype, torch.float32))  # float64, the check's reference, stays
        keys = values * torch.rsqrt(values.square().mean(2, keepdim=True) + self.eps)
        logits = torch.einsum("nbc...,c->nb...", keys, self.query * self.norm_weight)
        return torch.einsum("nb...,nbc...->bc...", logits.softmax(0), values).to(x.dtype)


def make_literal(network: nn.Module) -> nn.Module:
    """Make every XAttnRes of ``network`` compute the literal form."""
    for module in network.modules():
        if type(module) is XAttnRes:
            module.__class__ = LiteralXAttnRes
    return network
