"""The paper's own U-Net: five stages of 18 to 144 channels, 1.06M parameters (Table 2), with XAttnRes.

The paper does not print its layout; this one meets the parameters and multiply-accumulates of its Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import double_conv
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes

ENCODER_WIDTHS = (18, 36, 72, 144, 144)
DECODER_WIDTHS = (72, 36, 18, 18)


class PaperUNet(AnySizeNetwork):
    """The paper's 2D U-Net with XAttnRes on the pooled and on the upsampled features (eq. 10 and 11).

    It has one output and, as in the paper, no deep supervision. nnU-Net's trainers want a list of at least two outputs,
    of which they leave out the last: for them the list holds the same logits twice, so that the loss is that of the one
    output.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        routing: See :class:`~nnunetv2_xattnres.architectures.routing.Routing`; ``None`` is ``both``.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return ``[logits, logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for two outputs.

    Raises:
        ValueError: for an unknown routing key or value, or an unusable ``input_size``.

    Example:
        >>> PaperUNet(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        routing: dict[str, Any] | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(2 ** (len(ENCODER_WIDTHS) - 1), input_size)
        self.input_channels = input_channels
        self.routing = Routing.parse(routing)
        self.encoder = PaperEncoder(input_channels, self.routing)
        self.decoder = PaperDecoder(num_classes, self.routing, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]``, H and W multiples of 16."""
        history = History()
        return [self.decoder(self.encoder(x, history), history)]


class PaperEncoder(nn.Module):
    """Max pooling, XAttnRes at the pooled width, two convolutions: ``e_i = f_i(XAttnRes(H, Down(e_{i-1})))``."""

    def __init__(self, input_channels: int, routing: Routing) -> None:
        super().__init__()
        before = (input_channels, *ENCODER_WIDTHS)
        self.stages = nn.ModuleList(double_conv(have, want) for have, want in zip(before, ENCODER_WIDTHS, strict=False))
        self.down = nn.MaxPool2d(2)
        self.xattnres = nn.ModuleList()  # of stages 2 to 5
        if routing.encoder:
            self.xattnres.extend(
                XAttnRes(
                    ENCODER_WIDTHS[: i + 1],
                    width,
                    nn.Conv2d,
                    query_init=routing.query_init,
                    gated=routing.stock_start,
                )
                for i, width in enumerate(ENCODER_WIDTHS[:-1])
            )

    def forward(self, x: Tensor, history: History) -> list[Tensor]:
        """The five stage outputs, finest first; each is appended to ``history``."""
        features = []
        for i, stage in enumerate(self.stages):
            if i > 0:
                halved = [length // 2 for length in x.shape[2:]]
                # where the size is even, the next stage reads the same pooled map from the history
                x = history.pooled(i - 1, halved) if all(n % 2 == 0 for n in x.shape[2:]) else self.down(x)
                if self.xattnres:
                    x = self.xattnres[i - 1](history, x)
            x = stage(x)
            history.append(x)
            features.append(x)
        return features


class PaperDecoder(nn.Module):
    """Bilinear upsampling, XAttnRes, skip connection, two convolutions: ``d_j = f_j([XAttnRes(H, Up(d)) ; e])``."""

    def __init__(self, num_classes: int, routing: Routing, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.skip_connections = routing.skip_connections
        skips = ENCODER_WIDTHS[-2::-1] if routing.skip_connections else (0,) * len(DECODER_WIDTHS)
        before = (ENCODER_WIDTHS[-1], *DECODER_WIDTHS[:-1])
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.stages = nn.ModuleList(
            double_conv(have + skip, want) for have, skip, want in zip(before, skips, DECODER_WIDTHS, strict=True)
        )
        self.xattnres = nn.ModuleList()
        if routing.decoder:
            self.xattnres.extend(
                XAttnRes(
                    [*ENCODER_WIDTHS, *DECODER_WIDTHS[:j]],
                    width,
                    nn.Conv2d,
                    query_init=routing.query_init,
                    gated=routing.stock_start,
                )
                for j, width in enumerate(before)
            )
        # named as in nnU-Net's decoders, whose segmentation layers -pretrained_weights leaves out
        self.seg_layers = nn.ModuleList([nn.Conv2d(DECODER_WIDTHS[-1], num_classes, 1)])

    def forward(self, features: list[Tensor], history: History) -> Tensor:
        """Logits of the finest level from the encoder's five outputs."""
        x = features[-1]
        for j, stage in enumerate(self.stages):
            x = self.up(x)
            if self.xattnres:
                x = self.xattnres[j](history, x)
            if self.skip_connections:
                x = torch.cat((x, features[-2 - j]), 1)
            x = stage(x)
            history.append(x)
        return self.seg_layers[0](x)
