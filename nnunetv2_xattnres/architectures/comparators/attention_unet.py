"""Attention U-Net: a U-Net whose skip connections are weighted per pixel by a signal from the level below.

Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, arXiv 1804.03999.

This is the 2D form of 34.88M parameters that the paper's Table 2 counts. It differs from the publication: the gating
signal is enlarged before the gate (there, the gate works on the coarser map, and its coefficients are enlarged), and
there is no deep supervision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import AttentionGate, double_conv
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork

WIDTHS = (64, 128, 256, 512, 1024)


class AttentionUNet(AnySizeNetwork):
    """Five levels of 64 to 1024 channels, with an attention gate on each skip connection.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return ``[logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for one output.

    Raises:
        ValueError: for an unusable ``input_size``.

    Example:
        >>> AttentionUNet(3, 1)(torch.rand(1, 3, 97, 131)).shape
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
        super().__init__(16, input_size)
        self.input_channels = input_channels
        self.encoder = ConvEncoder(input_channels, WIDTHS)
        self.decoder = AttentionDecoder(num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 16."""
        return [self.decoder(self.encoder(x))]


class ConvEncoder(nn.Module):
    """Double convolutions with 2x2 max pooling between them."""

    def __init__(self, input_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(double_conv(have, want) for have, want in pairwise((input_channels, *widths)))
        self.down = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One feature map per stage, ``[B, widths[i], H / 2^i, W / 2^i]``, finest first."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(self.down(x) if features else x)
            features.append(x)
        return features


class AttentionDecoder(nn.Module):
    """Per level: nearest upsampling with a 3x3 convolution, the gated skip connection before it, double convolution."""

    def __init__(self, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        levels = list(pairwise(reversed(WIDTHS)))
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2), nn.Conv2d(have, want, 3, padding=1), nn.BatchNorm2d(want), nn.ReLU()
            )
            for have, want in levels
        )
        self.gates = nn.ModuleList(AttentionGate(want, want, want // 2) for _, want in levels)
        self.stages = nn.ModuleList(double_conv(2 * want, want) for _, want in levels)
        self.seg_layers = nn.ModuleList([nn.Conv2d(WIDTHS[0], num_classes, 1)])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits from the encoder's five maps, finest first."""
        *skips, x = features
        for up, gate, stage, skip in zip(self.up, self.gates, self.stages, reversed(skips), strict=True):
            x = up(x)
            x = stage(torch.cat((gate(x, skip), x), 1))
        return self.seg_layers[0](x)
