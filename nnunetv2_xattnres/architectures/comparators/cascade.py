"""CASCADE: a decoder of attention gates and attention modules, on PVTv2 or on another encoder.

Rahman, Marculescu, "Medical Image Segmentation via Cascaded Attention Decoding", WACV 2023, pages 6222 to 6231.

Written from the publication's description. Both of its decoders are here: the additive one, whose 34.12M parameters the
paper's Table 2 counts, and the concatenating one. With one spatial attention for all levels, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import AttentionGate, ChannelAttention, SpatialAttention, double_conv
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.sizes import resize
from nnunetv2_xattnres.encoders import PVT

FUSIONS = ("add", "concatenate")


class PVTCascade(PretrainedEncoderNetwork):
    """PVTv2 encoder and CASCADE decoder with four outputs; inference takes the sum of their logits.

    In training with nnU-Net's trainers, the online validation looks at the first output alone: its score is a little
    lower than that of the sum.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        fusion: How the decoder joins a gated feature with the level below: ``add`` or ``concatenate``.
        encoder, encoder_weights, input_normalization, input_size: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        deep_supervision: Return the four logits, finest first; nnU-Net switches it through
            ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: six all-ones entries for four outputs.

    Raises:
        ValueError: for an unknown fusion, encoder or normalisation, or an unusable ``input_size``.

    Example:
        >>> PVTCascade(3, 1, encoder="pvt_v2_b0")(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        fusion: str = "add",
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
        widths = self.encoder.feature_info.channels()
        gates = [widths[0] // 2, *widths[:-2]]
        self.decoder = CascadeDecoder(widths, gates, num_classes, fusion)
        self.decoder.deep_supervision = deep_supervision

    def segment(self, x: Tensor) -> list[Tensor]:
        """Four logits, at strides 4 to 32, of an input ``[B, C, H, W]``, H and W multiples of 32; or their sum."""
        logits = [resize(each, x.shape[2:]) for each in self.decoder(self.encoder(self.stem(x)))]
        return logits if self.decoder.deep_supervision else [sum(logits)]


class CascadeDecoder(nn.Module):
    """Four levels: gate the encoder's feature by the level below, join both, attend to channels and pixels, convolve.

    Args:
        widths: Channels of the encoder's features, finest first.
        gates: Inner channels of the gates of the three finer levels, finest first.
        num_classes: Channels of the logits.
        fusion: ``add`` or ``concatenate``.
    """

    deep_supervision = False

    def __init__(self, widths: Sequence[int], gates: Sequence[int], num_classes: int, fusion: str) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}: the valid ones are {', '.join(FUSIONS)}")
        self.concatenates = fusion == "concatenate"
        deep = list(reversed(widths))
        self.bottom = nn.Conv2d(deep[0], deep[0], 1)
        self.up = nn.ModuleList(_up(have, want) for have, want in pairwise(deep))
        self.gates = nn.ModuleList(
            AttentionGate(width, width, inner) for width, inner in zip(deep[1:], reversed(gates), strict=True)
        )
        joined = [deep[0], *((2 if self.concatenates else 1) * width for width in deep[1:])]
        self.channels = nn.ModuleList(ChannelAttention(width) for width in joined)
        self.spatial = SpatialAttention()
        self.stages = nn.ModuleList(double_conv(have, want) for have, want in zip(joined, deep, strict=True))
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in deep)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Logits of the four levels, each of its feature's size, finest first."""
        outputs: list[Tensor] = []
        x = self.bottom(features[-1])
        for level, stage in enumerate(self.stages):
            if level > 0:
                x = self.up[level - 1](x)
                gated = self.gates[level - 1](x, features[-1 - level])
                x = torch.cat((gated, x), 1) if self.concatenates else x + gated
            x = stage(self.spatial(self.channels[level](x)))
            outputs.insert(0, self.seg_layers[level](x))
        return outputs


def _up(have: int, want: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(have, want, 3, padding=1), nn.BatchNorm2d(want), nn.ReLU()
    )
