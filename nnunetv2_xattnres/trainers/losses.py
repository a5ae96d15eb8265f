"""The losses of the paper's recipes: of one output, and over several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SumLoss(nn.Module):
    """Sum of the losses of all outputs, each with weight 1, as PraNet, CaraNet, Polyp-PVT and CASCADE are trained.

    Args:
        loss: Takes logits ``[B, C, *S]`` and a target ``[B, 1, *S]`` (or ``[B, R, *S]`` for R regions).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss of logits and targets, each one tensor or a list; a target without an output does not count."""
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        targets = [targets] if isinstance(targets, Tensor) else targets
        return sum(self.loss(logits, target) for logits, target in zip(outputs, targets, strict=False))


class SubsetLoss(nn.Module):
    """EMCAD's: the loss of a subset's summed logits, summed over all non-empty subsets of the outputs (15 for 4).

    Args:
        loss: A loss of logits ``[B, C, *S]`` and a target ``[B, 1, *S]`` (or ``[B, R, *S]`` for R regions).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss of logits and targets; each is a tensor or a list of tensors with the same size.

        Raises:
            ValueError: the outputs differ in size, so that their logits cannot be summed.
        """
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        target = targets if isinstance(targets, Tensor) else targets[0]
        if any(output.shape != outputs[0].shape for output in outputs):
            raise ValueError("the subset loss needs outputs of one size: it is for EMCAD's four full-size outputs")
        subsets = (chosen for count in range(1, len(outputs) + 1) for chosen in combinations(outputs, count))
        return sum(self.loss(sum(chosen), target) for chosen in subsets)


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
