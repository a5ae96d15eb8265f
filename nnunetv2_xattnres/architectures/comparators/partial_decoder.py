"""The parts that PraNet, CaraNet and Polyp-PVT share, from PraNet's publication.

Fan, Ji, Zhou, Chen, Fu, Shen, Shao, "PraNet: Parallel Reverse Attention Network for Polyp Segmentation", MICCAI 2020,
arXiv 2006.11392.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32


def conv_norm(have: int, want: int, size: int | tuple[int, int], dilation: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size, and batch normalisation: without activation, as in PraNet."""
    height, width = (size, size) if isinstance(size, int) else size
    padding = (dilation * (height // 2), dilation * (width // 2))
    return nn.Sequential(
        nn.Conv2d(have, want, (height, width), padding=padding, dilation=dilation, bias=False), nn.BatchNorm2d(want)
    )


def bare_conv(have: int, want: int, size: int) -> nn.Conv2d:
    """A convolution without bias, normalisation or activation, as in CaraNet's partial decoder."""
    return nn.Conv2d(have, want, size, padding=size // 2, bias=False)


class ReceptiveFieldBlock(nn.Module):
    """Four branches of growing receptive field, joined by a 3x3 convolution, plus a 1x1 shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm(channels, WIDTH, 1)])
        for size in (3, 5, 7):
            self.branches.append(
                nn.Sequential(
                    conv_norm(channels, WIDTH, 1),
                    conv_norm(WIDTH, WIDTH, (1, size)),
                    conv_norm(WIDTH, WIDTH, (size, 1)),
                    conv_norm(WIDTH, WIDTH, 3, size),
                )
            )
        self.join = conv_norm(len(self.branches) * WIDTH, WIDTH, 3)
        self.shortcut = conv_norm(channels, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, 32, H, W]``."""
        joined = self.join(torch.cat([branch(x) for branch in self.branches], 1))
        return F.relu(joined + self.shortcut(x))


class PartialDecoder(nn.Module):
    """Joins three features of 32 channels by products and concatenations, deepest first.

    With the deepest feature a, then b and c, and ``up`` for bilinear enlargement to the next one's size:
    ``b1 = conv(up a) b``, ``c1 = conv(up up a) conv(up b) c``, ``b2 = conv [b1, conv(up a)]`` and
    ``c2 = conv [c1, conv(up b2)]``.

    Args:
        conv: Makes a 3x3 convolution of given widths, ``conv(have, want, 3)``.
    """

    def __init__(self, conv: Callable[[int, int, int], nn.Module] = conv_norm) -> None:
        super().__init__()
        self.b_from_a, self.c_from_a, self.c_from_b = (conv(WIDTH, WIDTH, 3) for _ in range(3))
        self.b_beside_a = conv(WIDTH, WIDTH, 3)
        self.join_b = conv(2 * WIDTH, 2 * WIDTH, 3)
        self.c_beside_b = conv(2 * WIDTH, 2 * WIDTH, 3)
        self.join_c = conv(3 * WIDTH, 3 * WIDTH, 3)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """``[B, 96, H, W]`` of the size of ``c`` from three ``[B, 32, ...]``, deepest first."""
        up_a = enlarge(a, b)
        b1 = self.b_from_a(up_a) * b
        c1 = self.c_from_a(enlarge(up_a, c)) * self.c_from_b(enlarge(b, c)) * c
        b2 = self.join_b(torch.cat((b1, self.b_beside_a(up_a)), 1))
        return self.join_c(torch.cat((c1, self.c_beside_b(enlarge(b2, c))), 1))


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corners on corners, to the size of ``like``."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


def not_found_yet(logits: Tensor, regions: bool) -> Tensor:
    """Reverse attention: per pixel, how likely nothing has been found there, ``[B, 1, H, W]``.

    The publication has one foreground class: one minus the sigmoid of its logit. The other two cases keep its meaning.

    Args:
        logits: ``[B, C, H, W]``. With one channel it is as published. With several, the first one is the background,
            whose softmax probability it is.
        regions: The channels are regions, which may overlap and have no background: one minus the largest sigmoid.
    """
    if regions or logits.shape[1] == 1:
        return 1 - logits.sigmoid().amax(1, keepdim=True)
    return logits.softmax(1)[:, :1]
