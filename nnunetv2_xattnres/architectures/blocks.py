"""Blocks that several networks have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double_conv(have: int, want: int) -> nn.Sequential:
    """Twice: 3x3 convolution with bias, batch normalisation, ReLU; ``[B, have, H, W]`` to ``[B, want, H, W]``."""
    layers: list[nn.Module] = []
    for channels in (have, want):
        layers += [nn.Conv2d(channels, want, 3, padding=1), nn.BatchNorm2d(want), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class AttentionGate(nn.Module):
    """Weighs the pixels of a skip connection by a signal of the same size (Oktay et al., 2018, arXiv 1804.03999).

    ``x * sigmoid(psi(relu(W_g g + W_x x)))``, where each of the three is a 1x1 convolution with batch normalisation.
    The paper gates with a coarser signal and enlarges the coefficients; here the signal has been enlarged before.

    Args:
        signal: Channels of ``g``.
        skip: Channels of ``x``.
        inner: Channels in which both meet.
    """

    def __init__(self, signal: int, skip: int, inner: int) -> None:
        super().__init__()
        self.signal = nn.Sequential(nn.Conv2d(signal, inner, 1), nn.BatchNorm2d(inner))
        self.skip = nn.Sequential(nn.Conv2d(skip, inner, 1), nn.BatchNorm2d(inner))
        self.weigh = nn.Sequential(nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """``x``, ``[B, skip, H, W]``, weighted by ``g``, ``[B, signal, H, W]``."""
        return x * self.weigh(F.relu(self.signal(g) + self.skip(x)))


class ChannelAttention(nn.Module):
    """Weighs the channels by their global average and maximum, through one shared bottleneck of C/16 (EMCAD's CAB)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 16, 1)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(), nn.Conv2d(inner, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        mean, peak = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        return x * torch.sigmoid(self.weigh(mean) + self.weigh(peak))


class SpatialAttention(nn.Module):
    """Weighs the pixels by the mean and the maximum over their channels, 7x7 (EMCAD's SAB)."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        both = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.weigh(both))
