"""What networks with a pretrained encoder share: the encoder from timm, its normalisation, and a stem for its input."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork
from nnunetv2_xattnres.architectures.vit_hybrid import HybridViT
from nnunetv2_xattnres.encoders import OPTIONS, R50_VIT


class PretrainedEncoderNetwork(AnySizeNetwork):
    """A network of any input size whose encoder can start from pretrained weights.

    Args:
        stride: Input pixels per pixel of the deepest feature map.
        input_channels: Channels of the image. Any number but three goes through 1x1 convolution, batch normalisation
            and ReLU to three.
        encoder: Name in timm.
        encoders: The names that this network can have.
        encoder_weights: What a trainer of this package is to load when a training starts: ``imagenet``, a file, or
            ``None``. The network only records it and always starts from random weights.
        input_normalization: ``imagenet`` for inputs scaled 0 to 1, which then get the mean and the standard deviation
            that the encoder was pretrained with; ``None`` for inputs in any other normalisation, which are taken as
            they are.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        options: Further arguments of the encoder.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``input_size``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stride: int,
        input_channels: int,
        *,
        encoder: str,
        encoders: Sequence[str],
        encoder_weights: str | None,
        input_normalization: str | None,
        input_size: Sequence[int] | None,
        **options: Any,
    ) -> None:
        super().__init__(stride, input_size)
        if encoder not in encoders:
            raise ValueError(f"unknown encoder {encoder!r}: the valid names are {', '.join(encoders)}")
        if input_normalization not in (None, "imagenet"):
            raise ValueError(f"unknown input_normalization {input_normalization!r}: give imagenet or null")
        if input_normalization == "imagenet" and input_channels != 3:
            raise ValueError(f"input_normalization imagenet is for 3 RGB channels, not {input_channels}: give null")
        self.input_channels = input_channels
        self.encoder_name = encoder
        self.encoder_weights = encoder_weights
        self.input_normalization = input_normalization
        self.encoder = build_encoder(encoder, **options)
        mean, std = _normalisation_of(encoder)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.stem = (
            nn.Identity()
            if input_channels == 3
            else nn.Sequential(nn.Conv2d(input_channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of ``[B, input_channels, H, W]``; a list with deep supervision."""
        if self.input_normalization == "imagenet":
            x = (x - self.mean) / self.std
        return super().forward(x)


def build_encoder(name: str, **options: Any) -> Any:
    """timm's encoder with random weights, as a module that returns a list of feature maps, finest first.

    Args:
        name: Key of :data:`~nnunetv2_xattnres.encoders.OPTIONS`.
        options: Arguments of the encoder beside those.
    """
    options = {"pretrained": False, **OPTIONS[name], **options}
    if name == R50_VIT:  # timm's form with features_only has maps of the transformer alone
        return HybridViT(_timm().create_model(name, **options))
    return _timm().create_model(name, features_only=True, **options)


def _normalisation_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = _timm().get_pretrained_cfg(name)
    return found.mean, found.std


def _timm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's, about torch.jit
        import timm  # takes seconds, and every network of a plans file imports this module
    return timm
