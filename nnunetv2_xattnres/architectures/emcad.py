"""EMCAD with a PVTv2 encoder (timm) and XAttnRes in its decoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.emcad_decoder import EMCADDecoder, SegmentationHeads
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ENCODERS = tuple(f"pvt_v2_b{i}" for i in range(6))


class EMCADNet(AnySizeNetwork):
    """PVTv2 encoder, EMCAD decoder, XAttnRes at the decoder's levels 3, 2 and 1 (Table 2 and 3).

    Args:
        input_channels: Channels of the image. Any number but three goes through 1x1 convolution, batch normalisation
            and ReLU to three.
        num_classes: Channels of the logits.
        encoder: ``pvt_v2_b0`` to ``pvt_v2_b5``.
        encoder_weights: What ``nnUNetTrainer_EMCAD`` is to load when a training starts: ``imagenet``, a file, or
            ``None``. The network only records it and always starts from random weights.
        input_normalization: ``imagenet`` for inputs scaled 0 to 1, which are then given ImageNet's mean and standard
            deviation; ``None`` for inputs in any other normalisation, which are taken as they are.
        routing: ``skip_connections`` (the gates), ``decoder`` and ``query_init``; ``encoder`` is accepted and has no
            effect, for the encoder comes pretrained. ``None`` is ``both``.
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

    mean: Tensor
    std: Tensor

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
        super().__init__(32, input_size)
        if encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {encoder!r}: the valid names are {', '.join(ENCODERS)}")
        if input_normalization not in (None, "imagenet"):
            raise ValueError(f"unknown input_normalization {input_normalization!r}: give imagenet or null")
        if input_normalization == "imagenet" and input_channels != 3:
            raise ValueError(f"input_normalization imagenet is for 3 RGB channels, not {input_channels}: give null")
        self.input_channels = input_channels
        self.routing = Routing.parse(routing)
        self.encoder_name = encoder
        self.encoder_weights = encoder_weights
        self.input_normalization = input_normalization
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.stem = (
            nn.Identity()
            if input_channels == 3
            else nn.Sequential(nn.Conv2d(input_channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        )
        self.encoder = _pvt(encoder)
        widths = self.encoder.feature_info.channels()
        self.decoder = EMCADDecoder(widths, self.routing, deep_supervision)
        self.heads = SegmentationHeads(widths, num_classes)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, input_channels, H, W]``; four with deep supervision."""
        if self.input_normalization == "imagenet":
            x = (x - self.mean) / self.std
        return super().forward(x)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits of an input ``[B, C, H, W]``, H and W multiples of 32, each brought to that size."""
        outputs = self.heads(self.decoder(self.encoder(self.stem(x))))
        return [F.interpolate(logits, x.shape[2:], mode="bilinear") for logits in outputs]


def _pvt(name: str) -> Any:
    """timm's PVTv2 as a list of features at strides 4, 8, 16 and 32, with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's, about torch.jit
        import timm  # takes seconds, and every network of a plans file imports this module
    return timm.create_model(name, pretrained=False, features_only=True)
