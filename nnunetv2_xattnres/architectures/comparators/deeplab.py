"""DeepLabv3+: atrous spatial pyramid pooling on a dilated ResNet, and a decoder of one step.

Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV 2018, arXiv 1802.02611.

This is the form of 39.76M parameters that the paper's Table 2 counts: plain convolutions where the publication has
separable ones, and one 3x3 convolution in the decoder instead of two. Dropout is 0.1. A batch of one image trains:
the pooled branch then has one value per channel, which batch normalisation refuses, so it goes without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.encoders import RESNET

RATES = (6, 12, 18)
WIDTH, LOW_LEVEL = 256, 48


class DeepLabV3Plus(PretrainedEncoderNetwork):
    """ResNet-50 of output stride 16, atrous spatial pyramid pooling, decoder at stride 4.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder, encoder_weights, input_normalization, input_size: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        deep_supervision: Return ``[logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for one output.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``input_size``.

    Example:
        >>> DeepLabV3Plus(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: str = RESNET,
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            16, input_channels, encoder=encoder, encoders=(RESNET,), encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size,
        )  # fmt: skip
        self.decoder = DeepLabDecoder(self.encoder.feature_info.channels(), num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits at stride 4 of an input ``[B, C, H, W]``, H and W multiples of 16."""
        return [self.decoder(*self.encoder(self.stem(x)))]


class DeepLabDecoder(nn.Module):
    """The pyramid of the deep map, enlarged to the low-level map and joined with 48 channels of it."""

    def __init__(self, widths: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        low, deep = widths
        self.low_level = _conv(low, LOW_LEVEL, 1)
        self.pyramid = AtrousPyramid(deep)
        self.fuse = _conv(LOW_LEVEL + WIDTH, WIDTH, 3)
        self.seg_layers = nn.ModuleList([nn.Conv2d(WIDTH, num_classes, 1)])

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        """Logits of the size of ``low`` from the features at stride 4 and 16."""
        enlarged = F.interpolate(self.pyramid(deep), low.shape[2:], mode="bilinear")
        return self.seg_layers[0](self.fuse(torch.cat((self.low_level(low), enlarged), 1)))


class AtrousPyramid(nn.Module):
    """Five branches of 256 channels side by side: 1x1, three dilated 3x3, and the global average; then 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = _conv(channels, WIDTH, 1)
        self.dilated = nn.ModuleList(_conv(channels, WIDTH, 3, rate) for rate in RATES)
        self.pooled = nn.Sequential(nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.join = nn.Sequential(_conv((2 + len(RATES)) * WIDTH, WIDTH, 1), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, 256, H, W]``."""
        mean = self._pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.join(torch.cat((self.point(x), *(branch(x) for branch in self.dilated), mean), 1))

    def _pooled(self, mean: Tensor) -> Tensor:
        convolve, norm, activate = self.pooled
        mean = convolve(mean)
        if self.training and mean.shape[0] == 1:
            # scale and shift without statistics, so that both keep a gradient
            scale, shift = (parameter.view(1, -1, 1, 1) for parameter in norm.parameters())
            return activate(mean * scale + shift)
        return activate(norm(mean))


def _conv(have: int, want: int, size: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    convolution = nn.Conv2d(have, want, size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(want), nn.ReLU())
