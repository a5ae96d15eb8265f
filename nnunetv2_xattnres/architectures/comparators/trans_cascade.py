"""TransCASCADE: TransUNet's encoder with the CASCADE decoder.

Rahman, Marculescu: Medical Image Segmentation via Cascaded Attention Decoding, WACV 2023, pages 6222 to 6231.

What differs from the publication: images of any size. No dropout on the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_xattnres.architectures.comparators.cascade_decoder import CascadeDecoder
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.sizes import padded_size
from nnunetv2_xattnres.encoders import R50_VIT


class TransCascade(PretrainedEncoderNetwork):
    """Hybrid transformer encoder (strides 2 to 16), concatenating CASCADE decoder, four outputs.

    Inference takes the sum of the four logits. With deep supervision they are returned one by one. nnU-Net's validation
    during a training looks at the finest alone, so that its scores are slightly lower than those of the sum.

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
        deep_supervision: Return four logits, finest level first, all of the input's size; nnU-Net switches it through
            ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: two more all-ones entries than outputs.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``image_size`` or ``input_size``.

    Example:
        >>> TransCascade(1, 2)(torch.rand(1, 1, 97, 131)).shape
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
        self.decoder = CascadeDecoder(self.encoder.widths, num_classes, True, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Four logits ``[B, num_classes, H, W]`` of ``[B, C, H, W]``, H and W multiples of 16, or their sum alone."""
        outputs = [
            F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)
            for logits in self.decoder(self.encoder(self.stem(x)))
        ]
        return outputs if self.decoder.deep_supervision else [torch.stack(outputs).sum(0)]
