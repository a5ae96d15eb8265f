"""MISSFormer: a hierarchical transformer whose skip connections pass through a bridge over all scales.

Huang, Deng, Li, Yuan, Fu, "MISSFormer: An Effective Transformer for 2D Medical Image Segmentation", IEEE TMI 42(5),
2023, 1484 to 1494; arXiv 2109.07162.

It differs from the publication: images of any size, and 7,009,792 parameters that no forward pass used are left out
(two layer norms per feed-forward, three layers of the deepest decoder stage). Attention is torch's fused one, so that
no matrix of all queries with all keys is kept. Maps are ``[B, H, W, C]``, channels last, within the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.comparators.patch_expanding import PatchExpanding
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork

WIDTHS = (64, 128, 320, 512)
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # of keys and values, along each axis
DEPTH, BRIDGE_LAYERS = 2, 4
TOKEN = 64  # channels of a token in the bridge


class MISSFormer(AnySizeNetwork):
    """Four stages of 64 to 512 channels at strides 4 to 32, a bridge of four layers, a decoder of three stages.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return ``[logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for one output.

    Raises:
        ValueError: for an unusable ``input_size``.

    Example:
        >>> MISSFormer(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(32, input_size)
        self.input_channels = input_channels
        before = (input_channels, *WIDTHS[:-1])
        self.encoder = nn.ModuleList(EncoderStage(have, level) for level, have in enumerate(before))
        self.bridge = nn.ModuleList(BridgeLayer() for _ in range(BRIDGE_LAYERS))
        self.decoder = TransformerDecoder(num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 32."""
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x.movedim(1, 3))
        for layer in self.bridge:
            maps = layer(maps)
        return [self.decoder(maps)]


class EncoderStage(nn.Module):
    """Overlapping patches (7x7 with stride 4, then 3x3 with stride 2), layer norm, two blocks, layer norm."""

    def __init__(self, channels: int, level: int) -> None:
        super().__init__()
        width, size = WIDTHS[level], 3 if level else 7
        self.embed = nn.Conv2d(channels, width, size, stride=size // 2 + 1, padding=size // 2)
        self.norm_patches = nn.LayerNorm(width)
        self.blocks = _blocks(level)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, width, H / stride, W / stride]``."""
        x = self.norm_patches(self.embed(x).movedim(1, 3))
        return self.norm(self.blocks(x)).movedim(3, 1)


def _blocks(level: int) -> nn.Sequential:
    return nn.Sequential(*(Block(WIDTHS[level], HEADS[level], REDUCTIONS[level]) for _ in range(DEPTH)))


class Block(nn.Module):
    """Layer norm, efficient attention, residual; layer norm, enhanced feed-forward, residual."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = EfficientAttention(width, heads, reduction)
        self.feed = EnhancedFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same shape."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed(self.norm_feed(x))


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from a map that a strided convolution has reduced."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), _linear(width)
        self.reduce = nn.Identity() if reduction == 1 else Reduction(width, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same shape."""
        queries = self._split(self.query(x.flatten(1, 2)))
        keys, values = (self._split(each) for each in self.key_value(self.reduce(x).flatten(1, 2)).chunk(2, 2))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3])

    def _split(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, heads, N, C / heads]``."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Reduction(nn.Module):
    """A convolution of size and stride ``factor``, and layer norm."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, factor, stride=factor)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H / factor, W / factor, C]``."""
        return self.norm(self.conv(x.movedim(3, 1)).movedim(1, 3))


class EnhancedFeedForward(nn.Module):
    """A linear layer to 4C, layer norm of that plus its depthwise 3x3 convolution, GELU, a linear layer back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.expand, self.reduce = nn.Linear(width, wide), nn.Linear(wide, width)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.norm = nn.LayerNorm(wide)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same shape."""
        x = self.expand(x)
        around = self.depthwise(x.movedim(3, 1)).movedim(1, 3)
        return self.reduce(F.gelu(self.norm(x + around)))


class BridgeLayer(nn.Module):
    """Attention of all scales to all scales in tokens of 64 channels, then a feed-forward per scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(TOKEN), nn.LayerNorm(TOKEN)
        self.query, self.key_value, self.out = nn.Linear(TOKEN, TOKEN), nn.Linear(TOKEN, 2 * TOKEN), _linear(TOKEN)
        self.reduce = nn.ModuleList(
            nn.Conv2d(width, width, factor, stride=factor) if factor > 1 else nn.Identity()
            for width, factor in zip(WIDTHS, REDUCTIONS, strict=True)
        )
        self.norm_reduced = nn.LayerNorm(TOKEN)
        self.feeds = nn.ModuleList(EnhancedFeedForward(width) for width in WIDTHS)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps ``[B, H_i, W_i, C_i]`` to the same shapes."""
        shapes = [x.shape for x in maps]
        tokens = to_tokens(maps)
        tokens = tokens + self._attend(self.norm_attention(tokens), shapes)
        normed = to_maps(self.norm_feed(tokens), shapes)
        tokens = tokens + to_tokens([feed(x) for feed, x in zip(self.feeds, normed, strict=True)])
        return to_maps(tokens, shapes)

    def _attend(self, tokens: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        reduced = [
            reduce(x.movedim(3, 1)).movedim(1, 3)
            for reduce, x in zip(self.reduce, to_maps(tokens, shapes), strict=True)
        ]
        keys, values = self.key_value(self.norm_reduced(to_tokens(reduced))).chunk(2, 2)
        # one head, so that the fused form has an axis of length 1 for it
        mixed = F.scaled_dot_product_attention(self.query(tokens)[:, None], keys[:, None], values[:, None])
        return self.out(mixed[:, 0])


def to_tokens(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``[B, H, W, C]`` as tokens ``[B, N, 64]``: a pixel of C channels becomes C / 64 consecutive tokens."""
    return torch.cat([x.reshape(x.shape[0], -1, TOKEN) for x in maps], 1)


def to_maps(tokens: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The inverse of :func:`to_tokens`."""
    counts = [height * width * channels // TOKEN for _, height, width, channels in shapes]
    return [part.reshape(shape) for part, shape in zip(tokens.split(counts, 1), shapes, strict=True)]


class TransformerDecoder(nn.Module):
    """Three stages: patch expanding, concatenation with the bridge's map, a linear layer, two blocks."""

    def __init__(self, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        levels = (2, 1, 0)
        self.expand = nn.ModuleList(PatchExpanding(WIDTHS[level + 1], WIDTHS[level + 1] // 2) for level in levels)
        self.join = nn.ModuleList(nn.Linear(WIDTHS[level + 1] // 2 + WIDTHS[level], WIDTHS[level]) for level in levels)
        self.blocks = nn.ModuleList(_blocks(level) for level in levels)
        self.last = PatchExpanding(WIDTHS[0], WIDTHS[0], 4)
        self.seg_layers = nn.ModuleList([nn.Conv2d(WIDTHS[0], num_classes, 1)])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, num_classes, H, W]`` from four maps ``[B, H_i, W_i, C_i]``, finest first."""
        *skips, x = maps
        for expand, join, blocks, skip in zip(self.expand, self.join, self.blocks, reversed(skips), strict=True):
            x = blocks(join(torch.cat((expand(x), skip), 3)))
        return self.seg_layers[0](self.last(x).movedim(3, 1))


def _linear(width: int) -> nn.Linear:
    return nn.Linear(width, width)
