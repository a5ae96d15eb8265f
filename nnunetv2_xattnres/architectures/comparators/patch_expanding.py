"""Patch expanding: how the transformer decoders of Swin-Unet (arXiv 2105.05537) and MISSFormer enlarge their maps."""

from __future__ import annotations

from torch import Tensor, nn


class PatchExpanding(nn.Module):
    """A linear layer without bias makes the channels of ``factor`` x ``factor`` pixels; then layer normalisation.

    Swin-Unet halves the channels where it doubles the size (C to 2C, rearranged to C/2 per pixel), and keeps them where
    it makes the size four times as large (C to 16C).

    Args:
        channels: Channels of the input.
        wanted: Channels of the output.
        factor: Output pixels per input pixel, along height and width.

    Example:
        >>> PatchExpanding(8, 4)(torch.rand(1, 5, 6, 8)).shape
        torch.Size([1, 10, 12, 4])
    """

    def __init__(self, channels: int, wanted: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(channels, factor**2 * wanted, bias=False)
        self.norm = nn.LayerNorm(wanted)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, channels]`` to ``[B, factor H, factor W, wanted]``: channels are last in both."""
        x = self.expand(x).unflatten(3, (self.factor, self.factor, -1))
        return self.norm(x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2))
