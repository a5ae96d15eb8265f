"""TransUNet: a U-Net decoder on a ResNet-50 with a vision transformer.

Chen, Lu, Yu, Luo, Adeli, Wang, Lu, Yuille, Zhou: TransUNet: Transformers Make Strong Encoders for Medical Image
Segmentation, 2021 (arXiv 2102.04306). This is the network with R50-ViT-B/16 and three skip connections.

What differs from the publication: images of any size, not only squares of one size. As in timm, whose layers the
encoder consists of, convolutions pad as TensorFlow's "same", so that no skip connection has to be padded, and
the group normalisation of the ResNet's shortcuts has 32 groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.sizes import padded_size
from nnunetv2_xattnres.encoders import R50_VIT

WIDTHS = (512, 256, 128, 64, 16)


class TransUNet(PretrainedEncoderNetwork):
    """Hybrid transformer encoder (strides 2 to 16), decoder of four upsampling steps, one output.

    Args:
        input_channels: Channels of the image. Any number but three goes through 1x1 convolution, batch normalisation
            and ReLU to three.
        num_classes: Channels of the logits.
        encoder: ``vit_base_r50_s16_224``.
        encoder_weights, input_normalization: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        image_size: Height and width for which the position embeddings are laid out, at best those that the network is
            trained with. Images of other sizes get interpolated embeddings.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return a list of the one output; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: two more all-ones entries than outputs.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``image_size`` or ``input_size``.

    Example:
        >>> TransUNet(1, 2)(torch.rand(1, 1, 97, 131)).shape
        torch.Size([1, 2, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: str = R50_VIT,
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        image_size: Sequence[int] = (256, 256),
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            16, input_channels, encoder=encoder, encoders=(R50_VIT,), encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size, img_size=padded_size(image_size, 16),
        )  # fmt: skip
        self.decoder = TransUNetDecoder(self.encoder.widths, num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 16."""
        return [self.decoder(self.encoder(self.stem(x)))]


class TransUNetDecoder(nn.Module):
    """Four times: bilinear upsampling by two, concatenation with a skip connection, two convolutions.

    Args:
        widths: Channels of the encoder's features, finest first; the finest is at stride 2, so that the last step has
            no skip connection.
        num_classes: Channels of the logits.
        deep_supervision: Of no effect here; nnU-Net switches it.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        *skips, deepest = widths
        self.project = _convolution(deepest, WIDTHS[0])
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(have + skip, want), _convolution(want, want))
            for have, skip, want in zip(WIDTHS, (*skips[::-1], 0), WIDTHS[1:], strict=False)
        )
        # named as in nnU-Net's decoders, whose segmentation layers -pretrained_weights leaves out
        self.seg_layers = nn.ModuleList([nn.Conv2d(WIDTHS[-1], num_classes, 3, padding=1)])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits at twice the finest feature's size."""
        x = self.project(features[-1])
        for stage, skip in zip(self.stages, (*features[-2::-1], None), strict=True):
            x = self.up(x)
            x = stage(x if skip is None else torch.cat((x, skip), 1))
        return self.seg_layers[0](x)


def _convolution(have: int, want: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(have, want, 3, padding=1, bias=False), nn.BatchNorm2d(want), nn.ReLU(inplace=True))
