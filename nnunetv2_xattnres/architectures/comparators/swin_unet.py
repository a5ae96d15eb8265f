"""Swin-Unet: encoder and decoder of shifted windows.

Cao, Wang, Chen, Jiang, Zhang, Tian, Wang: Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation, ECCV
Workshops 2022 (arXiv 2105.05537). The encoder is Swin-T with two blocks in every stage.

What differs from the publication: images of any size. Where no window of 7x7 divides a map, timm's blocks pad it with
zeros. They pad after the cyclic shift, so that at such sizes a window at the lower and right edge can reach pixels of
the opposite edge. A skip connection is the output of a stage's blocks, as in the paper's figure. The decoder's windows
start from random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.comparators.patch_expanding import PatchExpanding
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.encoders import SWIN

HEADS = (3, 6, 12)  # of the decoder's attention, finest level first
BLOCKS = 2
WINDOW = 7
DROP_PATH = 0.1  # of the deepest block; the rate grows with depth, and a decoder level has that of the encoder's


class SwinUNet(PretrainedEncoderNetwork):
    """Swin transformer encoder (strides 4 to 32), decoder of Swin blocks and patch expanding, one output.

    Args:
        input_channels: Channels of the image. Any number but three goes through 1x1 convolution, batch normalisation
            and ReLU to three.
        num_classes: Channels of the logits.
        encoder: ``swin_tiny_patch4_window7_224``.
        encoder_weights, input_normalization: See
            :class:`~nnunetv2_xattnres.architectures.pretrained.PretrainedEncoderNetwork`. Of the six pretrained blocks
            of the third stage the first two are taken.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return a list of the one output; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: two more all-ones entries than outputs.

    Raises:
        ValueError: for an unknown encoder or normalisation, or an unusable ``input_size``.

    Example:
        >>> SwinUNet(1, 2)(torch.rand(1, 1, 97, 131)).shape
        torch.Size([1, 2, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: str = SWIN,
        encoder_weights: str | None = None,
        input_normalization: str | None = None,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            32, input_channels, encoder=encoder, encoders=(SWIN,), encoder_weights=encoder_weights,
            input_normalization=input_normalization, input_size=input_size, drop_path_rate=DROP_PATH,
        )  # fmt: skip
        self.decoder = SwinUNetDecoder(self.encoder.feature_info.channels(), num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 32."""
        return [self.decoder(self.encoder(self.stem(x)))]


class SwinUNetDecoder(nn.Module):
    """Three times: patch expanding, concatenation with the skip connection, a linear layer, two Swin blocks.

    At last the map is made four times as large. Inside, channels are last.

    Args:
        widths: Channels of the encoder's features, finest first; each has twice those of the one before.
        num_classes: Channels of the logits.
        deep_supervision: Of no effect here; nnU-Net switches it.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        *skips, deepest = widths
        self.bottleneck_norm = nn.LayerNorm(deepest)
        self.expand = nn.ModuleList(PatchExpanding(2 * width, width) for width in skips[::-1])
        self.fuse = nn.ModuleList(nn.Linear(2 * width, width) for width in skips[::-1])
        self.stages = nn.ModuleList(_swin_blocks(skips)[::-1])
        self.norm = nn.LayerNorm(skips[0])
        self.expand_last = PatchExpanding(skips[0], skips[0], 4)
        # named as in nnU-Net's decoders, whose segmentation layers -pretrained_weights leaves out
        self.seg_layers = nn.ModuleList([nn.Conv2d(skips[0], num_classes, 1, bias=False)])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits ``[B, num_classes, 4H, 4W]`` from features ``[B, H, W, C]``, finest first."""
        x = self.bottleneck_norm(features[-1])
        for expand, fuse, stage, skip in zip(self.expand, self.fuse, self.stages, features[-2::-1], strict=True):
            x = stage(fuse(torch.cat((expand(x), skip), 3)))
        x = self.expand_last(self.norm(x))
        return self.seg_layers[0](x.permute(0, 3, 1, 2))


def _swin_blocks(widths: Sequence[int]) -> list[nn.Module]:
    """Swin blocks for each width, for maps ``[B, H, W, width]`` of any size."""
    from timm.layers import calculate_drop_path_rates  # takes seconds, see pretrained.py
    from timm.models.swin_transformer import SwinTransformerStage

    rates: Any = calculate_drop_path_rates(DROP_PATH, [BLOCKS] * (len(widths) + 1), stagewise=True)
    return [
        SwinTransformerStage(
            dim=width,
            out_dim=width,
            # of no effect with the two options below, which let the windows follow the map
            input_resolution=(WINDOW, WINDOW),
            always_partition=True,
            dynamic_mask=True,
            depth=BLOCKS,
            downsample=False,
            num_heads=heads,
            window_size=WINDOW,
            drop_path=rate,
        )
        for width, heads, rate in zip(widths, HEADS, rates, strict=False)
    ]
