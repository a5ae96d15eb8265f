"""EMCAD's loss over several outputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor, nn


class SubsetLoss(nn.Module):
    """Sums the loss over all non-empty subsets of the outputs (15 for 4 outputs); a subset's logits are summed first.

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
