"""PVT-CASCADE: a pyramid transformer with the CASCADE decoder.

Rahman, Marculescu, "Medical Image Segmentation via Cascaded Attention Decoding", WACV 2023, pages 6222 to 6231.

Written from the publication. Both forms of its decoder are here: the additive one, whose 34.12M parameters the paper's
Table 2 counts, and the concatenating one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nnunetv2_xattnres.architectures.comparators.cascade_decoder import CascadeDecoder
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
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}: the valid ones are {', '.join(FUSIONS)}")
        widths = self.encoder.feature_info.channels()
        self.decoder = CascadeDecoder(widths, num_classes, fusion == "concatenate", deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Four logits, at strides 4 to 32, of an input ``[B, C, H, W]``, H and W multiples of 32; or their sum."""
        logits = [resize(each, x.shape[2:]) for each in self.decoder(self.encoder(self.stem(x)))]
        return logits if self.decoder.deep_supervision else [sum(logits[1:], logits[0])]
