"""Losses over several outputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

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
