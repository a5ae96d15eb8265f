"""CaraNet: PraNet's scheme with a channel-wise feature pyramid and axial reverse attention, for small objects.

Lou, Guan, Ko, Loew, "CaraNet: Context Axial Reverse Attention Network for Segmentation of Small Medical Objects", SPIE
Medical Imaging 2022, arXiv 2108.07368.

It differs from the publication: there may be several classes (see
:func:`~nnunetv2_xattnres.architectures.comparators.partial_decoder.not_found_yet`), maps are resized to the size of the
features instead of by fixed factors, and the encoder's unused ImageNet head of 2,049,000 parameters is left out. The
axial attention is that of the publication's text: along the height, then along the width, whatever the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.comparators.partial_decoder import (
    WIDTH,
    PartialDecoder,
    bare_conv,
    not_found_yet,
)
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.sizes import resize
from nnunetv2_xattnres.encoders import RES2NET_101

DILATIONS = (1, 3, 5, 9)


class CaraNet(PretrainedEncoderNetwork):
    """Res2Net-101 encoder (v1b, 26w x 4s), partial decoder and three axial reverse attentions: four outputs.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        regions: The channels are regions, which may overlap, and not classes with the background first.
        encoder, encoder_weights, input_normalization, input_size: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        deep_supervision: Return the three refined logits, finest first, and those of the partial decoder; nnU-Net
            switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: six all-ones entries for four outputs.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``input_size``.

    Example:
        >>> CaraNet(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        regions: bool = False,
        encoder: str = RES2NET_101,
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            32, input_channels, encoder=encoder, encoders=(RES2NET_101,), encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size,
        )  # fmt: skip
        self.decoder = CaraNetDecoder(self.encoder.feature_info.channels()[1:], num_classes, regions)
        self.decoder.deep_supervision = deep_supervision

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits of an input ``[B, C, H, W]``, H and W multiples of 32, at strides 8, 16, 32 and (coarse) 8."""
        return self.decoder(self.encoder(self.stem(x))[1:])


class CaraNetDecoder(nn.Module):
    """Partial decoder, and axial reverse attention on a feature pyramid, from the deepest feature to the finest."""

    deep_supervision = False

    def __init__(self, widths: Sequence[int], num_classes: int, regions: bool) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv_norm_prelu(width, WIDTH, 3) for width in widths)
        self.partial = PartialDecoder(bare_conv)
        self.smooth = bare_conv(3 * WIDTH, 3 * WIDTH, 3)
        self.seg_layers = nn.ModuleList([nn.Conv2d(3 * WIDTH, num_classes, 1)])
        self.pyramids = nn.ModuleList(FeaturePyramid() for _ in widths)
        self.refinements = nn.ModuleList(AxialReverseAttention(num_classes, regions) for _ in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The refined logits, finest first, then the coarse ones, from three features, finest first."""
        reduced = [reduce(feature) for reduce, feature in zip(self.reduce, features, strict=True)]
        outputs = [self.seg_layers[0](self.smooth(self.partial(*reversed(reduced))))]
        for refine, pyramid, feature in zip(
            reversed(self.refinements), reversed(self.pyramids), reversed(reduced), strict=True
        ):
            outputs.insert(0, refine(pyramid(feature), resize(outputs[0], feature.shape[2:])))
        return outputs


def conv_norm_prelu(have: int, want: int, size: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size, batch normalisation, PReLU with one slope per channel."""
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(have, want, size, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(want, eps=1e-3),
        nn.PReLU(want),
    )


class FeaturePyramid(nn.Module):
    """Channel-wise feature pyramid: four branches of growing dilation on 8 channels, whose running sums are joined."""

    def __init__(self) -> None:
        super().__init__()
        quarter = WIDTH // 4
        self.before = nn.Sequential(nn.BatchNorm2d(WIDTH, eps=1e-3), nn.PReLU(WIDTH))
        self.reduce = conv_norm_prelu(WIDTH, quarter, 3)
        self.branches = nn.ModuleList(FeatureChain(quarter, dilation) for dilation in DILATIONS)
        self.after = nn.Sequential(nn.BatchNorm2d(WIDTH, eps=1e-3), nn.PReLU(WIDTH))
        self.join = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 32, H, W]`` to the same shape."""
        reduced = self.reduce(self.before(x))
        sums = accumulate(branch(reduced) for branch in self.branches)
        return x + self.join(self.after(torch.cat(list(sums), 1)))


class FeatureChain(nn.Module):
    """Three grouped convolutions in a row, C to C/4, C/4 and C/2, whose outputs are concatenated to C."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.steps = nn.ModuleList(
            conv_norm_prelu(have, want, 3, dilation, groups=2)
            for have, want in ((channels, quarter), (quarter, quarter), (quarter, 2 * quarter))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        outputs = []
        for step in self.steps:
            x = step(x)
            outputs.append(x)
        return torch.cat(outputs, 1)


class AxialReverseAttention(nn.Module):
    """Attends along both axes of a feature, looks there for what a map has not found, and adds it to the map."""

    def __init__(self, num_classes: int, regions: bool) -> None:
        super().__init__()
        self.regions = regions
        self.point, self.around = nn.Conv2d(WIDTH, WIDTH, 1, bias=False), bare_conv(WIDTH, WIDTH, 3)
        self.height, self.width = AxialAttention(2), AxialAttention(3)
        self.look = nn.Sequential(*(conv_norm_prelu(WIDTH, WIDTH, 3) for _ in range(2)))
        self.seg_layers = conv_norm_prelu(WIDTH, num_classes, 3)

    def forward(self, feature: Tensor, logits: Tensor) -> Tensor:
        """Refined logits ``[B, num_classes, H, W]`` from ``[B, 32, H, W]`` and logits of the same size."""
        attended = self.width(self.height(self.around(self.point(feature))))
        return logits + self.seg_layers(self.look(attended * not_found_yet(logits, self.regions)))


class AxialAttention(nn.Module):
    """Attention of each pixel to the pixels of its column or row: ``x + s v sigmoid(q k)``, where s starts at 0.

    Args:
        axis: 2 for the height, 3 for the width.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.query, self.key = (nn.Conv2d(WIDTH, WIDTH // 8, 1, bias=False) for _ in range(2))
        self.value = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 32, H, W]`` to the same shape."""
        # lines of pixels: [B, other axis, axis, channels]
        q, k, v = (layer(x).movedim(1, 3) for layer in (self.query, self.key, self.value))
        if self.axis == 2:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = torch.sigmoid(q @ k.transpose(2, 3)) @ v
        if self.axis == 2:
            out = out.transpose(1, 2)
        return x + self.scale * out.movedim(3, 1)
