"""UNet 3+: each level of the decoder reads every scale of the encoder and of the decoder.

Huang et al., "UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation", ICASSP 2020, arXiv 2004.08790.

It differs from the publication: there is no classification-guided module (it is for one organ, and its loss was not
published), and the logits have no sigmoid. The paper's Table 2 counts the form with one output, which is the default.

``replace`` is a form of our own: XAttnRes in place of the fixed fusion of each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.comparators.attention_unet import WIDTHS, ConvEncoder
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork, zero_gradients
from nnunetv2_xattnres.architectures.xattnres import XAttnRes

INNER = 64  # channels of one source
FUSED = INNER * len(WIDTHS)


class UNet3Plus(AnySizeNetwork):
    """Five levels of 64 to 1024 channels; four decoder levels of 320 channels.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        routing: ``skip_connections`` alone is the network as published (``baseline``); ``encoder`` and ``decoder``
            without it is XAttnRes in place of each level's fusion (``replace``). ``None`` is the former.
        full_scale_supervision: Five outputs, of the four decoder levels and the bottleneck, as the publication's deep
            supervision has; by default one.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return all outputs as a list; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: two more all-ones entries than outputs.

    Raises:
        ValueError: for a routing that is neither of the two, or an unusable ``input_size``.

    Example:
        >>> UNet3Plus(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        routing: dict[str, Any] | None = None,
        full_scale_supervision: bool = False,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(16, input_size)
        self.input_channels = input_channels
        self.routing = Routing.parse_fusion(routing)
        self.encoder = ConvEncoder(input_channels, WIDTHS)
        self.decoder = FullScaleDecoder(self.routing, num_classes, full_scale_supervision, deep_supervision)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits of an input ``[B, C, H, W]``, H and W multiples of 16, at strides 1, 2, 4, 8 and 16."""
        return self.decoder(self.encoder(x))


class FullScaleDecoder(nn.Module):
    """Four levels, deepest first; each reads five maps, one per scale."""

    def __init__(self, routing: Routing, num_classes: int, full_scale: bool, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        fusion = RoutedFusion if routing.decoder else FullScaleFusion
        self.levels = nn.ModuleList(
            fusion(level, _source_widths(level), routing.query_init) for level in reversed(range(len(WIDTHS) - 1))
        )
        widths = [FUSED] * (len(WIDTHS) - 1) + [WIDTHS[-1]]
        self.seg_layers = nn.ModuleList(
            nn.Conv2d(width, num_classes, 3, padding=1) for width in (widths if full_scale else widths[:1])
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Logits of the decoder's levels, finest first, from the encoder's five maps; the finest one at least."""
        sources = list(features)  # at each scale the newest map: a decoder's where there is one
        for level, fuse in zip(range(len(WIDTHS) - 2, -1, -1), self.levels, strict=True):
            sources[level] = fuse(sources)
        if self.deep_supervision:
            supervised = sources[: len(self.seg_layers)]  # torch 2.6 compiles no zip of different lengths
            return [layer(source) for layer, source in zip(self.seg_layers, supervised, strict=True)]
        logits = self.seg_layers[0](sources[0])
        return [zero_gradients(logits, self.seg_layers[1:]) if self.training and len(self.seg_layers) > 1 else logits]


def _source_widths(level: int) -> list[int]:
    """Widths of the five maps that a level reads, finest first."""
    finer, coarser = WIDTHS[: level + 1], len(WIDTHS) - 2 - level
    return [*finer, *[FUSED] * coarser, WIDTHS[-1]]


class FullScaleFusion(nn.Module):
    """A 3x3 convolution to 64 channels for each source, their concatenation, and a 3x3 convolution of that."""

    def __init__(self, level: int, widths: Sequence[int], query_init: str) -> None:
        super().__init__()
        self.level = level
        self.sources = nn.ModuleList(_conv(width, INNER) for width in widths)
        self.fuse = _conv(FUSED, FUSED)

    def forward(self, sources: list[Tensor]) -> Tensor:
        """``[B, 320, H, W]`` of this level from one map per scale, finest first."""
        size = sources[self.level].shape[2:]
        parts = [conv(_resize(source, size)) for conv, source in zip(self.sources, sources, strict=True)]
        return self.fuse(torch.cat(parts, 1))


class RoutedFusion(nn.Module):
    """XAttnRes over the same five maps in place of their projections and concatenation, then the same convolution.

    The reader's own feature is the encoder's map of this level, as 1x1 convolution to 320 channels: of the five maps it
    is the one that needs neither pooling nor enlargement. The others are aligned as XAttnRes does (eq. 4).
    """

    def __init__(self, level: int, widths: Sequence[int], query_init: str) -> None:
        super().__init__()
        self.level = level
        others = [width for index, width in enumerate(widths) if index != level]
        self.own = nn.Conv2d(widths[level], FUSED, 1, bias=False)
        self.xattnres = XAttnRes(others, FUSED, nn.Conv2d, query_init=query_init)
        self.fuse = _conv(FUSED, FUSED)

    def forward(self, sources: list[Tensor]) -> Tensor:
        """``[B, 320, H, W]`` of this level from one map per scale, finest first."""
        others = [source for index, source in enumerate(sources) if index != self.level]
        return self.fuse(self.xattnres(others, self.own(sources[self.level])))


def _conv(have: int, want: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(have, want, 3, padding=1), nn.BatchNorm2d(want), nn.ReLU())


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Max pooling of a finer map, bilinear upsampling of a coarser one."""
    if x.shape[2] == size[0]:
        return x
    if x.shape[2] > size[0]:
        return F.max_pool2d(x, x.shape[2] // size[0])
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
