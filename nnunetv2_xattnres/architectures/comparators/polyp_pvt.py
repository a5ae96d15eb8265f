"""Polyp-PVT: a fused map of the deep features, and details of the shallow one brought in by a graph convolution.

Dong, Wang, Fan, Li, Fu, Shao, "Polyp-PVT: Polyp Segmentation with Pyramid Vision Transformers", CAAI Artificial
Intelligence Research 2 (2023), 9150015, arXiv 2108.06932.

Written from the publication. The similarity aggregation takes its edge weight from channel 1 of a softmax over 32
channels, as published: any fixed channel would do. On maps of fewer than 6 pixels a side, its 16 nodes are means of
overlapping pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import ChannelAttention, SpatialAttention
from nnunetv2_xattnres.architectures.comparators.partial_decoder import WIDTH, PartialDecoder, conv_norm, enlarge
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.sizes import resize
from nnunetv2_xattnres.encoders import PVT

STATES = WIDTH // 2
GRID = 4  # nodes a side: an adaptive pooling to two more, whose border is dropped


class PolypPVT(PretrainedEncoderNetwork):
    """PVTv2 encoder and three modules: cascaded fusion, camouflage identification, similarity aggregation.

    It has two outputs; inference takes the sum of their logits. In training with nnU-Net's trainers, the online
    validation looks at the first output alone: its score is a little lower than that of the sum.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder, encoder_weights, input_normalization, input_size: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        deep_supervision: Return both logits, those of the aggregation first; nnU-Net switches it through
            ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: four all-ones entries for two outputs.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``input_size``.

    Example:
        >>> PolypPVT(3, 1, encoder="pvt_v2_b0")(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: str = "pvt_v2_b2",
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            32, input_channels, encoder=encoder, encoders=PVT, encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size,
        )  # fmt: skip
        self.decoder = PolypDecoder(self.encoder.feature_info.channels(), num_classes)
        self.decoder.deep_supervision = deep_supervision

    def segment(self, x: Tensor) -> list[Tensor]:
        """Two logits, at stride 8, of an input ``[B, C, H, W]``, H and W multiples of 32; or their sum."""
        logits = [resize(each, x.shape[2:]) for each in self.decoder(self.encoder(self.stem(x)))]
        return logits if self.decoder.deep_supervision else [sum(logits[1:], logits[0])]


class PolypDecoder(nn.Module):
    """Fuses stages 2 to 4, finds details in stage 1, and joins both."""

    deep_supervision = False

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        shallow, *deep = widths
        self.reduce = nn.ModuleList(conv_norm(width, WIDTH, 1) for width in deep)
        self.partial = PartialDecoder()
        self.fuse = conv_norm(3 * WIDTH, WIDTH, 3)
        self.identify = nn.Sequential(
            ChannelAttention(shallow), SpatialAttention(), conv_norm(shallow, WIDTH, 1)
        )  # fmt: skip
        self.aggregate = SimilarityAggregation()
        self.seg_layers = nn.ModuleList(nn.Conv2d(WIDTH, num_classes, 1) for _ in range(2))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Logits of the aggregated and of the fused map from four features, finest first."""
        shallow, *deep = features
        reduced = [reduce(feature) for reduce, feature in zip(self.reduce, deep, strict=True)]
        fused = self.fuse(self.partial(*reversed(reduced)))
        details = enlarge(self.identify(shallow), fused)
        return [layer(x) for layer, x in zip(self.seg_layers, (self.aggregate(fused, details), fused), strict=True)]


class SimilarityAggregation(nn.Module):
    """A graph of 16 nodes: the fused map's pixels are assigned to them, and they exchange what they hold."""

    def __init__(self) -> None:
        super().__init__()
        nodes = GRID**2
        self.state = nn.Conv2d(WIDTH, STATES, 1)
        self.project = nn.Conv2d(WIDTH, STATES, 1)
        self.across_nodes = nn.Conv1d(nodes, nodes, 1)
        self.across_states = nn.Conv1d(STATES, STATES, 1, bias=False)
        self.expand = nn.Conv2d(STATES, WIDTH, 1, bias=False)

    def forward(self, fused: Tensor, details: Tensor) -> Tensor:
        """``[B, 32, H, W]`` from two maps of that shape."""
        edge = details.softmax(1)[:, 1:2]
        state, projected = self.state(fused).flatten(2), self.project(fused)
        anchors = F.adaptive_avg_pool2d(projected * edge, GRID + 2)[:, :, 1:-1, 1:-1].flatten(2)
        assigned = (anchors.transpose(1, 2) @ projected.flatten(2)).softmax(1)  # [B, nodes, pixels]
        nodes = state @ assigned.transpose(1, 2)  # [B, states, nodes]
        mixed = self.across_nodes(nodes.transpose(1, 2)).transpose(1, 2) - nodes
        nodes = F.relu(self.across_states(mixed))
        return fused + self.expand((nodes @ assigned).unflatten(2, fused.shape[2:]))
