"""The CASCADE decoder: attention gates and convolutional attention, from the deepest feature to the finest.

Rahman, Marculescu: Medical Image Segmentation via Cascaded Attention Decoding, WACV 2023, pages 6222 to 6231.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import AttentionGate, ChannelAttention, SpatialAttention, double_conv


class CascadeDecoder(nn.Module):
    """One level per feature: gated skip connection, convolutional attention, two convolutions, a head.

    Args:
        widths: Channels of the encoder's features, finest first, each at half the resolution of the one before.
        num_classes: Channels of the logits.
        concatenate: Concatenate a gated skip connection with the upsampled feature; otherwise the two are added.
        deep_supervision: Whether the network returns the logits of all levels; nnU-Net switches it.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, concatenate: bool, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.concatenate = concatenate
        deep_first = list(widths[::-1])
        # a gate works in the width of the next level, the last one in half of its own
        inner = [*deep_first[2:], deep_first[-1] // 2]
        self.project = nn.Conv2d(deep_first[0], deep_first[0], 1)
        self.up = nn.ModuleList(map(_up_convolution, deep_first[:-1], deep_first[1:]))
        self.gates = nn.ModuleList(map(AttentionGate, deep_first[1:], deep_first[1:], inner))
        fused = [deep_first[0], *((2 if concatenate else 1) * width for width in deep_first[1:])]
        self.channel = nn.ModuleList(map(ChannelAttention, fused))
        self.spatial = SpatialAttention()  # one for all levels
        self.stages = nn.ModuleList(map(double_conv, fused, deep_first))
        # named as in nnU-Net's decoders, whose segmentation layers -pretrained_weights leaves out
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in deep_first)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Logits of each feature's size, finest first, from the encoder's features, finest first."""
        outputs = []
        x = self.project(features[-1])
        for i, (channel, stage, head) in enumerate(zip(self.channel, self.stages, self.seg_layers, strict=True)):
            if i > 0:
                x = self.up[i - 1](x)
                skip = self.gates[i - 1](x, features[-1 - i])
                x = torch.cat((skip, x), 1) if self.concatenate else skip + x
            x = stage(self.spatial(channel(x)))
            outputs.append(head(x))
        return outputs[::-1]


def _up_convolution(have: int, want: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(have, want, 3, padding=1), nn.BatchNorm2d(want), nn.ReLU(inplace=True)
    )
