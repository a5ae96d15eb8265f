"""EMCAD with a PVTv2 encoder (timm) and XAttnRes in its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nnunetv2_xattnres.architectures.emcad_decoder import EMCADDecoder, SegmentationHeads
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.sizes import zero_gradients
from nnunetv2_xattnres.encoders import PVT


class EMCADNet(PretrainedEncoderNetwork):
    """PVTv2 encoder, EMCAD decoder, XAttnRes at the decoder's levels 3, 2 and 1 (Table 2 and 3).

    Args:
        input_channels: Channels of the image. Any number but three goes through 1x1 convolution, batch normalisation
            and ReLU to three.
        num_classes: Channels of the logits.
        encoder: ``pvt_v2_b0`` to ``pvt_v2_b5``.
        encoder_weights, input_normalization: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        routing: ``skip_connections`` (the gates), ``decoder``, ``query_init`` and ``stock_start``; ``encoder`` is
            accepted and has no effect, for the encoder comes pretrained. ``None`` is ``both``.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return four logits, finest level first, all of the input's size; nnU-Net switches it through
            ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: five all-ones entries for four outputs.

    Raises:
        ValueError: for an unknown encoder, normalisation, routing key or value, or an unusable ``input_size``.

    Example:
        >>> EMCADNet(1, 2, encoder="pvt_v2_b0")(torch.rand(1, 1, 97, 131)).shape
        torch.Size([1, 2, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: str = "pvt_v2_b2",
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        routing: dict[str, Any] | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            32, input_channels, encoder=encoder, encoders=PVT, encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size,
        )  # fmt: skip
        self.routing = Routing.parse(routing)
        widths = self.encoder.feature_info.channels()
        self.decoder = EMCADDecoder(widths, self.routing, deep_supervision)
        self.heads = SegmentationHeads(widths, num_classes)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits of an input ``[B, C, H, W]``, H and W multiples of 32, at strides 4, 8, 16 and 32; or the first."""
        outputs = self.heads(self.decoder(self.encoder(self.stem(x))))
        if self.training and not self.decoder.deep_supervision:
            return [zero_gradients(outputs[0], self.heads.seg_layers[1:])]
        return outputs
