"""SSFormer: features of a pyramid transformer, emphasised locally and fused stepwise from deep to shallow.

Wang, Huang, Tang, Meng, Su, Song, "Stepwise Feature Fusion: Local Guides Global", MICCAI 2022, arXiv 2203.03635.

It differs from the publication: the encoder is PVTv2-B2 as in the tables that the paper's row was taken from (the
publication's MiT encoders are not free), and a fourth fusion layer that no forward pass used is left out.

``replace`` is a form of our own: XAttnRes in place of each stepwise fusion. All maps have one width and one size there,
so that its readers have no projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.encoders import PVT

WIDTH = 256


class SSFormer(PretrainedEncoderNetwork):
    """PVTv2 encoder, local emphasis of its four features, three fusions at stride 4.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        routing: ``skip_connections`` alone is the network as published (``baseline``); ``encoder`` and ``decoder``
            without it is XAttnRes in place of each fusion (``replace``). ``None`` is the former.
        encoder, encoder_weights, input_normalization, input_size: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`.
        deep_supervision: Return ``[logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for one output.

    Raises:
        ValueError: for a routing that is neither of the two, an unknown encoder or normalisation, or an unusable
            ``input_size``.

    Example:
        >>> SSFormer(3, 1, encoder="pvt_v2_b0")(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        routing: dict[str, Any] | None = None,
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
        self.routing = Routing.parse_fusion(routing)
        widths = self.encoder.feature_info.channels()
        self.decoder = StepwiseDecoder(widths, self.routing, num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits at stride 4 of an input ``[B, C, H, W]``, H and W multiples of 32."""
        return [self.decoder(self.encoder(self.stem(x)))]


class StepwiseDecoder(nn.Module):
    """Every feature emphasised and enlarged to the finest one's size, then fused one by one, deepest first."""

    def __init__(self, widths: Sequence[int], routing: Routing, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.emphasis = nn.ModuleList(_emphasis(width) for width in widths)
        steps = range(1, len(widths))
        self.fusions = nn.ModuleList()
        self.xattnres = nn.ModuleList()
        if routing.decoder:
            self.xattnres.extend(
                # step k reads the k emphasised maps and the k - 1 results before it, beside the next emphasised map
                XAttnRes([WIDTH] * (2 * step - 1), WIDTH, nn.Conv2d, query_init=routing.query_init)
                for step in steps
            )
        else:
            self.fusions.extend(
                nn.Sequential(nn.Conv2d(2 * WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
                for _ in steps
            )
        self.dropout = nn.Dropout(0.1)
        self.seg_layers = nn.ModuleList([nn.Conv2d(WIDTH, num_classes, 1)])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of the first feature's size from the four features, finest first."""
        size = features[0].shape[2:]
        emphasised = [
            F.interpolate(emphasise(feature), size, mode="bilinear")
            for emphasise, feature in zip(self.emphasis, features, strict=True)
        ]
        fused, *finer = reversed(emphasised)
        pool = [fused]
        for step, feature in enumerate(finer):
            if self.xattnres:
                fused = self.xattnres[step](pool, feature)
                pool += [feature, fused]
            else:
                fused = self.fusions[step](torch.cat((fused, feature), 1))
        return self.seg_layers[0](self.dropout(fused))


def _emphasis(width: int) -> nn.Sequential:
    """Two 3x3 convolutions without bias, each with ReLU: attention of the transformer is global, these are local."""
    return nn.Sequential(
        nn.Conv2d(width, WIDTH, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        nn.ReLU(),
    )
