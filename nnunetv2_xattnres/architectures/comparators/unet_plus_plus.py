"""UNet++: a U-Net whose skip connections are themselves nested decoders, joined densely.

Zhou, Siddiquee, Tajbakhsh, Liang, "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA at
MICCAI 2018, arXiv 1807.10165; IEEE TMI 2020, arXiv 1912.05074.

This is the form of 9.16M parameters that the paper's Table 2 counts: bilinear upsampling where the publication has
transposed convolutions. Inference takes the output of the deepest nest; the publication also offers the mean of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.blocks import double_conv
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork, zero_gradients

WIDTHS = (32, 64, 128, 256, 512)


class UNetPlusPlus(AnySizeNetwork):
    """Fifteen nodes of 32 to 512 channels, four outputs.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return four logits, X^{0,4} first; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: six all-ones entries for four outputs.

    Raises:
        ValueError: for an unusable ``input_size``.

    Example:
        >>> UNetPlusPlus(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(2 ** (len(WIDTHS) - 1), input_size)
        self.input_channels = input_channels
        self.decoder = NestedNodes(input_channels, num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 16."""
        return self.decoder(x)


class NestedNodes(nn.Module):
    """The nodes X^{i,j}: level i, and j-th in its row; ``nodes[i][j]`` is a double convolution.

    X^{i,0} reads X^{i-1,0}, max-pooled. X^{i,j} reads X^{i,0} to X^{i,j-1} and X^{i+1,j-1}, upsampled.
    """

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        depth = len(WIDTHS)
        before = (input_channels, *WIDTHS)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                double_conv(before[i] if j == 0 else j * WIDTHS[i] + WIDTHS[i + 1], WIDTHS[i]) for j in range(depth - i)
            )
            for i in range(depth)
        )
        self.down = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.seg_layers = nn.ModuleList(nn.Conv2d(WIDTHS[0], num_classes, 1) for _ in range(depth - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of X^{0,4} to X^{0,1}; without deep supervision those of X^{0,4} alone."""
        rows: list[list[Tensor]] = [[] for _ in self.nodes]
        nodes: list[Any] = list(self.nodes)  # of rows: the type of a ModuleList does not say what it holds
        for level, row in enumerate(nodes):
            rows[level].append(row[0](self.down(rows[level - 1][0]) if level else x))
            # the diagonal that this level completes: X^{level-1,1}, X^{level-2,2}, ...
            for above in range(level - 1, -1, -1):
                parts = (*rows[above], self.up(rows[above + 1][-1]))
                rows[above].append(nodes[above][len(rows[above])](torch.cat(parts, 1)))
        *inner, last = (layer(node) for layer, node in zip(self.seg_layers, rows[0][1:], strict=True))
        if self.deep_supervision:
            return [last, *reversed(inner)]
        return [zero_gradients(last, self.seg_layers[:-1]) if self.training else last]
