"""PraNet: a coarse map by a parallel partial decoder, refined three times where nothing has been found yet.

Fan, Ji, Zhou, Chen, Fu, Shen, Shao, "PraNet: Parallel Reverse Attention Network for Polyp Segmentation", MICCAI 2020,
arXiv 2006.11392.

It differs from the publication: there may be several classes (see
:func:`~nnunetv2_xattnres.architectures.comparators.partial_decoder.not_found_yet`), maps are resized to the size of the
features instead of by fixed factors, and the encoder's unused ImageNet head of 2,049,000 parameters is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnunetv2_xattnres.architectures.comparators.partial_decoder import (
    WIDTH,
    PartialDecoder,
    ReceptiveFieldBlock,
    conv_norm,
    not_found_yet,
)
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.sizes import resize
from nnunetv2_xattnres.encoders import RES2NET_50


class PraNet(PretrainedEncoderNetwork):
    """Res2Net-50 encoder (v1b, 26w x 4s), partial decoder and three reverse attentions: four outputs.

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
        >>> PraNet(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        regions: bool = False,
        encoder: str = RES2NET_50,
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            32, input_channels, encoder=encoder, encoders=(RES2NET_50,), encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size,
        )  # fmt: skip
        self.decoder = PraNetDecoder(self.encoder.feature_info.channels()[1:], num_classes, regions)
        self.decoder.deep_supervision = deep_supervision

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits of an input ``[B, C, H, W]``, H and W multiples of 32, at strides 8, 16, 32 and (coarse) 8."""
        return self.decoder(self.encoder(self.stem(x))[1:])


class PraNetDecoder(nn.Module):
    """Receptive field blocks, partial decoder, and reverse attention from the deepest feature to the finest."""

    deep_supervision = False

    def __init__(self, widths: Sequence[int], num_classes: int, regions: bool) -> None:
        super().__init__()
        self.fields = nn.ModuleList(ReceptiveFieldBlock(width) for width in widths)
        self.partial = PartialDecoder()
        self.smooth = conv_norm(3 * WIDTH, 3 * WIDTH, 3)
        self.seg_layers = nn.ModuleList([nn.Conv2d(3 * WIDTH, num_classes, 1)])
        *finer, deepest = widths
        self.refinements = nn.ModuleList(ReverseAttention(width, 64, 2, 3, 3, num_classes, regions) for width in finer)
        self.refinements.append(ReverseAttention(deepest, 256, 3, 5, 1, num_classes, regions))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The refined logits, finest first, then the coarse ones, from three features, finest first."""
        fields = [block(feature) for block, feature in zip(self.fields, features, strict=True)]
        coarse = self.seg_layers[0](self.smooth(self.partial(*reversed(fields))))
        outputs = [coarse]
        for refine, feature in zip(reversed(self.refinements), reversed(features), strict=True):
            outputs.insert(0, refine(feature, resize(outputs[0], feature.shape[2:])))
        return outputs


class ReverseAttention(nn.Module):
    """Looks, in a feature, for what a map has not found, and adds it to the map.

    Args:
        channels: Of the feature.
        width: Of the convolutions.
        count, size: How many convolutions with ReLU, and their kernel size.
        last: Kernel size of the last convolution, to the logits.
        num_classes: Channels of the logits.
        regions: See :func:`not_found_yet`.
    """

    def __init__(
        self, channels: int, width: int, count: int, size: int, last: int, num_classes: int, regions: bool
    ) -> None:
        super().__init__()
        self.regions = regions
        layers: list[nn.Module] = [conv_norm(channels, width, 1)]
        for _ in range(count):
            layers += [conv_norm(width, width, size), nn.ReLU()]
        self.look = nn.Sequential(*layers)
        # batch normalisation of the residual logits is as published
        self.seg_layers = conv_norm(width, num_classes, last)

    def forward(self, feature: Tensor, logits: Tensor) -> Tensor:
        """Refined logits ``[B, num_classes, H, W]`` from ``[B, channels, H, W]`` and logits of the same size."""
        return logits + self.seg_layers(self.look(feature * not_found_yet(logits, self.regions)))
