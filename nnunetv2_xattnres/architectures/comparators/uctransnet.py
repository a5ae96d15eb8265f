"""UCTransNet: a U-Net whose skip connections pass through a transformer over channels.

Wang, Cao, Wang, Zaiane, "UCTransNet: Rethinking the Skip Connections in U-Net from a Channel-wise Perspective with
Transformer", AAAI 2022, arXiv 2109.04335.

It differs from the publication: images of any size, for which the position embeddings are interpolated, and logits
without a last sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import double_conv
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork, padded_size

WIDTHS = (64, 128, 256, 512)  # of the levels whose skip connections the transformer reads
DEEPEST = 512
DECODER_WIDTHS = (256, 128, 64, 64)  # deepest first
STRIDE = 16
LAYERS, HEADS, DROPOUT = 4, 4, 0.1


class UCTransNet(AnySizeNetwork):
    """Five levels of 64 to 512 channels, a channel transformer of four layers, channel-wise cross attention.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        image_size: Height and width for which the position embeddings are laid out, at best those that the network is
            trained with. Images of other sizes get interpolated embeddings.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return ``[logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for one output.

    Raises:
        ValueError: for an unusable ``image_size`` or ``input_size``.

    Example:
        >>> UCTransNet(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        image_size: Sequence[int] = (256, 256),
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(STRIDE, input_size)
        self.input_channels = input_channels
        height, width = padded_size(image_size, STRIDE)
        before = (*WIDTHS, DEEPEST)
        self.encoder = nn.ModuleList([_conv(input_channels, WIDTHS[0], 3)])
        self.encoder.extend(double_conv(have, want) for have, want in pairwise(before))
        self.down = nn.MaxPool2d(2)
        self.transformer = ChannelTransformer((height // STRIDE, width // STRIDE))
        self.decoder = CrossAttentionDecoder(num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 16."""
        features: list[Tensor] = []
        for stage in self.encoder:
            x = stage(self.down(x) if features else x)
            features.append(x)
        return [self.decoder(self.transformer(features[:-1]), x)]


class ChannelTransformer(nn.Module):
    """Brings four feature maps to one grid of tokens, mixes their channels, and adds the result to each map.

    Args:
        grid: Height and width of the grid that the position embeddings are laid out for, in tokens.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        patches = [STRIDE // 2**level for level in range(len(WIDTHS))]
        self.embed = nn.ModuleList(nn.Conv2d(c, c, p, stride=p) for c, p in zip(WIDTHS, patches, strict=True))
        self.positions = nn.ParameterList(nn.Parameter(torch.zeros(1, width, *grid)) for width in WIDTHS)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(ChannelLayer() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in WIDTHS)
        self.restore = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=patch), _conv(width, width, 1))
            for width, patch in zip(WIDTHS, patches, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four maps, finest first, to maps of the same shapes."""
        tokens = []
        for feature, embed, position in zip(features, self.embed, self.positions, strict=True):
            x = embed(feature)
            if position.shape[2:] != x.shape[2:]:
                position = F.interpolate(position, x.shape[2:], mode="bilinear")
            tokens.append(self.dropout((x + position).flatten(2).transpose(1, 2)))
        grid = x.shape[2:]
        for layer in self.layers:
            tokens = layer(tokens)
        maps = [norm(token).transpose(1, 2).unflatten(2, grid) for norm, token in zip(self.norms, tokens, strict=True)]
        return [feature + restore(x) for feature, restore, x in zip(features, self.restore, maps, strict=True)]


class ChannelLayer(nn.Module):
    """Attention of each level's channels to the channels of all levels, then an MLP per level, both with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in WIDTHS)
        self.norm_all = nn.LayerNorm(sum(WIDTHS), eps=1e-6)
        self.attention = ChannelAttentionHeads()
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width, eps=1e-6),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Linear(4 * width, width),
                nn.Dropout(DROPOUT),
            )
            for width in WIDTHS
        )

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Tokens of each level, ``[B, N, C_i]``, to the same shapes."""
        normed = [norm(token) for norm, token in zip(self.norms, tokens, strict=True)]
        attended = self.attention(normed, self.norm_all(torch.cat(list(tokens), 2)))
        tokens = [token + other for token, other in zip(tokens, attended, strict=True)]
        return [token + mlp(token) for mlp, token in zip(self.mlps, tokens, strict=True)]


class ChannelAttentionHeads(nn.Module):
    """Multi-head attention over channels; every head has matrices of full width, and the heads are averaged.

    With ``Q_i``, ``K`` and ``V`` of one head, level i becomes ``softmax(norm(Q_i^T K / sqrt(C))) V^T``, where ``norm``
    is instance normalisation of the matrix without parameters, and C the channels of all levels.
    """

    def __init__(self) -> None:
        super().__init__()
        total = sum(WIDTHS)
        # the heads' matrices lie side by side; keys and values are shared by the levels
        self.queries = nn.ModuleList(nn.Linear(width, HEADS * width, bias=False) for width in WIDTHS)
        self.key, self.value = (nn.Linear(total, HEADS * total, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width, bias=False) for width in WIDTHS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Sequence[Tensor], everything: Tensor) -> list[Tensor]:
        """Tokens of each level, ``[B, N, C_i]``, and of all together, ``[B, N, C]``, to the former's shapes."""
        keys, values = (_heads(layer(everything)) for layer in (self.key, self.value))
        outputs = []
        for token, query, out in zip(tokens, self.queries, self.out, strict=True):
            scores = _heads(query(token)).transpose(2, 3) @ keys / everything.shape[2] ** 0.5
            weights = self.dropout(F.instance_norm(scores).softmax(3))
            mixed = (weights @ values.transpose(2, 3)).mean(1)
            outputs.append(self.dropout(out(mixed.transpose(1, 2))))
        return outputs


def _heads(x: Tensor) -> Tensor:
    """``[B, N, heads * C]`` to ``[B, heads, N, C]``."""
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


class CrossAttentionDecoder(nn.Module):
    """Per level: nearest upsampling, the skip connection weighted per channel, concatenation, two convolutions."""

    def __init__(self, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.up = nn.Upsample(scale_factor=2)
        before = (DEEPEST, *DECODER_WIDTHS[:-1])
        skips = WIDTHS[::-1]
        self.attention = nn.ModuleList(ChannelCrossAttention(g, x) for g, x in zip(before, skips, strict=True))
        self.stages = nn.ModuleList(
            double_conv(g + x, want) for g, x, want in zip(before, skips, DECODER_WIDTHS, strict=True)
        )
        self.seg_layers = nn.ModuleList([nn.Conv2d(DECODER_WIDTHS[-1], num_classes, 1)])

    def forward(self, skips: Sequence[Tensor], x: Tensor) -> Tensor:
        """Logits from four skip connections, finest first, and the deepest map."""
        for attend, stage, skip in zip(self.attention, self.stages, reversed(skips), strict=True):
            x = self.up(x)
            x = stage(torch.cat((attend(x, skip), x), 1))
        return self.seg_layers[0](x)


class ChannelCrossAttention(nn.Module):
    """Weighs the channels of a skip connection by the global averages of both: ``relu(x sigmoid((A g + B x) / 2))``."""

    def __init__(self, signal: int, skip: int) -> None:
        super().__init__()
        self.signal, self.skip = nn.Linear(signal, skip), nn.Linear(skip, skip)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """``x``, ``[B, skip, H, W]``, weighted; ``g`` is ``[B, signal, H, W]``."""
        weight = torch.sigmoid((self.signal(g.mean((2, 3))) + self.skip(x.mean((2, 3)))) / 2)
        return F.relu(x * weight[:, :, None, None])


def _conv(have: int, want: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(have, want, size, padding=size // 2), nn.BatchNorm2d(want), nn.ReLU())
