"""EMCAD's decoder with XAttnRes, written from the paper: Rahman et al., EMCAD, CVPR 2024 (arXiv 2405.06880)."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import ChannelAttention, SpatialAttention
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes


class MultiScaleConv(nn.Module):
    """MSCB: widen to 2C, three depthwise convolutions side by side, shuffle, back to C, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.groups = gcd(wide, channels)
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU6(),
            )
            for kernel in (1, 3, 5)
        )
        self.reduce = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        wide = self.expand(x)
        small, middle, large = (scale(wide) for scale in self.scales)
        mixed = (small + middle + large).unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return x + self.reduce(mixed)


class UpConv(nn.Module):
    """EUCB: nearest neighbour times two, depthwise 3x3 convolution, 1x1 convolution to the next level's width."""

    def __init__(self, channels: int, next_channels: int) -> None:
        super().__init__()
        # the paper's channel shuffle between the two has one channel a group: it changes nothing
        self.layers = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, next_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', 2H, 2W]``."""
        return self.layers(x)


class LargeKernelGate(nn.Module):
    """LGAG: weighs the pixels of a skip connection by grouped 3x3 convolutions of it and of the upsampled feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2

        def grouped() -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, half, 3, padding=1, groups=half), nn.BatchNorm2d(half))

        self.gate, self.skip = grouped(), grouped()
        self.weigh = nn.Sequential(nn.ReLU(), nn.Conv2d(half, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Both ``[B, C, H, W]``; returns the weighed skip connection."""
        return skip * self.weigh(self.gate(gate) + self.skip(skip))


class EMCADDecoder(nn.Module):
    """Four levels from deep to shallow: ``d_i = MSCAM(XAttnRes(H, EUCB(d_{i+1})) + LGAG(...))``.

    Args:
        widths: Channels of the encoder's features, finest first.
        routing: ``skip_connections`` are the gates (LGAG); ``encoder`` has no effect, XAttnRes is in the decoder alone.
        deep_supervision: Return the features of all levels.
    """

    def __init__(self, widths: Sequence[int], routing: Routing, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        deep_first = list(widths[::-1])
        self.spatial = SpatialAttention()  # one for all levels
        self.channel = nn.ModuleList(ChannelAttention(width) for width in deep_first)
        self.multi_scale = nn.ModuleList(MultiScaleConv(width) for width in deep_first)
        self.up = nn.ModuleList(map(UpConv, deep_first[:-1], deep_first[1:]))
        self.gates = nn.ModuleList(map(LargeKernelGate, deep_first[1:] if routing.skip_connections else []))
        self.xattnres = nn.ModuleList()
        if routing.decoder:
            self.xattnres.extend(
                XAttnRes(
                    [*widths, *deep_first[: i + 1]],
                    width,
                    nn.Conv2d,
                    query_init=routing.query_init,
                    gated=routing.stock_start,
                )
                for i, width in enumerate(deep_first[1:])
            )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """``[d1, d2, d3, d4]`` from ``[e1, e2, e3, e4]``, finest first; without deep supervision ``[d1]``."""
        history = History()
        for feature in features:
            history.append(feature)
        outputs = []
        x = features[-1]
        last = len(features) - 1
        for i in range(len(features)):
            if i > 0:
                x = self.up[i - 1](x)
                if self.xattnres:
                    x = self.xattnres[i - 1](history, x)
                if self.gates:
                    x = x + self.gates[i - 1](x, features[-1 - i])
            x = self.multi_scale[i](self.spatial(self.channel[i](x)))
            if i < last:
                history.append(x)
            if self.deep_supervision or i == last:
                outputs.append(x)
        return outputs[::-1]


class SegmentationHeads(nn.Module):
    """One 1x1 convolution a level; all exist with or without deep supervision, so that any checkpoint loads."""

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # named as in nnU-Net's decoders, whose segmentation layers -pretrained_weights leaves out
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Logits of the first levels, as many as there are features."""
        return [layer(feature) for layer, feature in zip(self.seg_layers, features, strict=False)]
