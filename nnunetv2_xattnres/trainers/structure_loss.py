"""The loss of EMCAD's recipe for binary data sets: weighted cross-entropy plus weighted IoU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightedBCEIoULoss(nn.Module):
    """Cross-entropy plus IoU; pixels near the object's edge have up to six times the weight (Wei et al., 2020).

    The mask is y, the foreground's probability is p. The loss of an image is ``sum(w * bce) / sum(w)`` plus
    ``1 - (sum(w p y) + 1) / (sum(w (p + y - p y)) + 1)``, where ``w = 1 + 5 |mean of y over 31x31 pixels - y|``.

    Args:
        regions: Targets have one channel per region (nnU-Net's region-based training) instead of labels.
        ignore_label: Label (or, with regions, ``True`` for a last channel) of ignored pixels.
    """

    def __init__(self, regions: bool = False, ignore_label: int | None = None) -> None:
        super().__init__()
        self.regions, self.ignore_label = regions, ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the images of logits ``[B, 2, H, W]`` (one channel with regions) and targets ``[B, 1, H, W]``."""
        logits = logits.float()
        # softmax over background and foreground is the sigmoid of their difference
        logit = logits[:, :1] if self.regions else logits[:, 1:2] - logits[:, :1]
        counted = torch.ones_like(logit)
        if self.ignore_label is not None:
            counted = (~target[:, -1:].bool() if self.regions else target != self.ignore_label).float()
        mask = (target[:, :1] if self.regions else target == 1).float() * counted
        mean = F.avg_pool2d(mask, 31, stride=1, padding=15)
        weight = (1 + 5 * (mean - mask).abs()) * counted
        bce = F.binary_cross_entropy_with_logits(logit, mask, reduction="none")
        probability = logit.sigmoid()
        axes = (1, 2, 3)
        cross_entropy = (weight * bce).sum(axes) / weight.sum(axes).clamp_min(1e-8)
        shared = (weight * probability * mask).sum(axes)
        union = (weight * (probability + mask)).sum(axes) - shared
        return (cross_entropy + 1 - (shared + 1) / (union + 1)).mean()
