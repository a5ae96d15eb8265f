"""A ResNet-50 with a vision transformer on top, as an encoder with four feature maps for images of any size.

Dosovitskiy et al., An Image Is Worth 16x16 Words: Transformers for Image Recognition at Scale, ICLR 2021 (arXiv
2010.11929); as an encoder in Chen et al., TransUNet, 2021 (arXiv 2102.04306). The layers and their names are timm's.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from torch import Tensor, nn


class HybridViT(nn.Module):
    """The three inner feature maps of the ResNet, and the tokens of the transformer as a map.

    The position embeddings are learned for one size. For every other they are interpolated (bicubic).

    Args:
        vit: timm's ``VisionTransformer`` on a ResNet, without class token and classifier.

    Attributes:
        widths: Channels of the four feature maps, at strides 2, 4, 8 and 16.
        grid: Height and width, in tokens, for which the position embeddings are laid out.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.patch_embed = vit.patch_embed  # holds the ResNet, too
        self.pos_embed = vit.pos_embed
        self.pos_drop = vit.pos_drop
        self.blocks = vit.blocks
        self.norm = vit.norm
        *inner, _ = vit.patch_embed.backbone.feature_info
        self.widths = (*(level["num_chs"] for level in inner), vit.embed_dim)
        self.grid = tuple(vit.patch_embed.grid_size)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of ``widths`` channels at strides 2, 4, 8 and 16 of ``[B, 3, H, W]``, H and W multiples of 16."""
        # the stem, before its max pooling, and the three stages
        *features, deepest = self.patch_embed.backbone.forward_intermediates(
            x, indices=[0, 1, 2, 3], intermediates_only=True
        )
        tokens = self.patch_embed.proj(deepest)
        grid = tokens.shape[2:]
        tokens = tokens.flatten(2).transpose(1, 2) + _resample(self.pos_embed, self.grid, tuple(grid))
        tokens = self.norm(self.blocks(self.pos_drop(tokens)))
        return [*features, tokens.transpose(1, 2).unflatten(2, grid)]

    def fit_positions(self, pretrained: Tensor) -> Tensor:
        """``[1, height * width, C]`` for this network's grid, from ``[1, 1 + n * n, C]`` of a network with class token.

        Embeddings of any other shape are returned as they are.
        """
        side = isqrt(max(pretrained.shape[1] - 1, 0)) if pretrained.ndim == 3 else 0
        if side == 0 or pretrained.shape[1] != 1 + side**2:
            return pretrained
        return _resample(pretrained[:, 1:], (side, side), self.grid)


def _resample(positions: Tensor, have: tuple[int, ...], want: tuple[int, ...]) -> Tensor:
    """Position embeddings ``[1, h * w, C]`` of the grid ``want`` from those of the grid ``have``."""
    if have == want:
        return positions
    from timm.layers import resample_abs_pos_embed  # takes seconds, see pretrained.py

    return resample_abs_pos_embed(positions, list(want), list(have), num_prefix_tokens=0)
