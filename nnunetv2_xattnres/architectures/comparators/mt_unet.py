"""MT-UNet: a convolutional stem and decoder around transformer modules of local, global and external attention.

Wang, Xie, Lin, Iwamoto, Han, Chen, Tong, "Mixed Transformer U-Net for Medical Image Segmentation", ICASSP 2022,
arXiv 2111.04734.

It differs from the publication's release: images of any size and shape (pixels that pad a window take no part in any
attention), batched products instead of loops over pixels, and the distance always lowers a score, by an absolute value
around its factor. Parameters without effect are left out: an output projection in each axial attention (3,806,720 in
all), and a bias in each Gaussian, which the softmax cancels (10).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork, padded_size

STEM_WIDTHS = (64, 128, 256)
WIDTHS = (256, 512, 1024)  # of the transformer modules at strides 8, 16 and 32
WINDOW = 4
HEADS = 8
EXPANSION = 4  # of external attention, in width and heads
SLOTS = 64  # of its memory


class MTUNet(AnySizeNetwork):
    """Stem of three residual stages, transformer modules at strides 8 to 32 and back, decoder of three stages.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        image_size: Height and width for which the position embedding is laid out, at best those that the network is
            trained with. Images of other sizes get an interpolated embedding.
        input_size: Height and width to which the input is resized, and from which the logits are resized back.
        deep_supervision: Return ``[logits]``; nnU-Net switches it through ``decoder.deep_supervision``.
        strides: For nnU-Net alone, which reads the target scales from it: three all-ones entries for one output.

    Raises:
        ValueError: for an unusable ``image_size`` or ``input_size``.

    Example:
        >>> MTUNet(3, 1)(torch.rand(1, 3, 97, 131)).shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        image_size: Sequence[int] = (224, 224),
        input_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(32, input_size)
        self.input_channels = input_channels
        height, width = padded_size(image_size, 32)
        before = (input_channels, *STEM_WIDTHS[:-1])
        self.stem = nn.ModuleList(ResidualConv(have, want) for have, want in zip(before, STEM_WIDTHS, strict=True))
        self.pool = nn.MaxPool2d(2)
        self.embed = _conv(STEM_WIDTHS[-1], WIDTHS[0], 1)
        self.position = nn.Parameter(torch.zeros(1, WIDTHS[0], height // 8, width // 8))
        self.encoder = nn.ModuleList(_modules(width) for width in WIDTHS)
        self.down = nn.ModuleList(_conv(width, 2 * width, 2, stride=2) for width in WIDTHS[:-1])
        self.decoder = MTUNetDecoder(num_classes, deep_supervision)

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, C, H, W]``, H and W multiples of 32."""
        skips = []
        for stage in self.stem:
            x = stage(x)
            skips.append(x)
            x = self.pool(x)
        x = self.embed(x)
        position: Tensor = self.position
        if position.shape[2:] != x.shape[2:]:
            position = F.interpolate(position, x.shape[2:], mode="bilinear")
        x = x + position
        for level, modules in enumerate(self.encoder):
            x = modules(x if level == 0 else self.down[level - 1](x))
            skips.append(x)
        return [self.decoder(skips)]


class MTUNetDecoder(nn.Module):
    """Two steps with transformer modules, from stride 32 to 8, and three with convolutions, to full size."""

    def __init__(self, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width, width // 2, 2, stride=2) for width in (1024, 512, 512, 256, 128)
        )
        self.join = nn.Conv2d(1024, 512, 1)
        self.modules_16, self.modules_8 = _modules(512), _modules(512)
        self.stages = nn.ModuleList(ResidualConv(2 * width, width) for width in reversed(STEM_WIDTHS))
        self.seg_layers = nn.ModuleList([nn.Conv2d(STEM_WIDTHS[0], num_classes, 1)])

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """Logits from the maps at strides 1, 2, 4, 8, 16 and 32."""
        one, two, four, eight, sixteen, x = skips
        x = self.modules_16(self.join(torch.cat((self.up[0](x), sixteen), 1)))
        x = self.modules_8(torch.cat((self.up[1](x), eight), 1))
        for up, stage, skip in zip(self.up[2:], self.stages, (four, two, one), strict=True):
            x = stage(torch.cat((skip, up(x)), 1))
        return self.seg_layers[0](x)


class ResidualConv(nn.Module):
    """Two 3x3 convolutions to h, the first with ReLU, then ``relu(h + norm(conv h))`` with a 1x1 convolution."""

    def __init__(self, have: int, want: int) -> None:
        super().__init__()
        self.first = _conv(have, want, 3)
        self.second = nn.Sequential(nn.Conv2d(want, want, 3, padding=1, bias=False), nn.BatchNorm2d(want))
        self.point = nn.Sequential(nn.Conv2d(want, want, 1), nn.BatchNorm2d(want))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, have, H, W]`` to ``[B, want, H, W]``."""
        h = self.second(self.first(x))
        return F.relu(h + self.point(h))


def _conv(have: int, want: int, size: int, stride: int = 1) -> nn.Sequential:
    padding = size // 2 if stride == 1 else 0
    return nn.Sequential(
        nn.Conv2d(have, want, size, stride=stride, padding=padding, bias=False), nn.BatchNorm2d(want), nn.ReLU()
    )


def _modules(width: int) -> nn.Sequential:
    return nn.Sequential(MixedTransformer(width), MixedTransformer(width))


class MixedTransformer(nn.Module):
    """``x + local-global attention(norm x)``, then ``x + external attention(norm x)``; there is no MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_local, self.norm_external = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.local_global, self.external = LocalGlobalAttention(width), ExternalAttention(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        x = x.movedim(1, 3)
        x = x + self.local_global(self.norm_local(x))
        x = x + self.external(self.norm_external(x).flatten(1, 2)).unflatten(1, x.shape[1:3])
        return x.movedim(3, 1)


class LocalGlobalAttention(nn.Module):
    """Attention within 4x4 windows; each window then becomes a token, and these attend along rows and columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = WindowAttention(width)
        self.weigh = nn.Linear(width, WINDOW**2)
        self.across = AxialAttention(width)
        self.join = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same shape."""
        height, width = x.shape[1:3]
        windows, real = to_windows(x)
        windows = self.local(windows, real)
        # a window's token: its pixels, weighted by what a linear layer makes of their mean
        mean = (windows * real.unsqueeze(3)).sum(3) / real.sum(2, keepdim=True)
        weights = self.weigh(mean).masked_fill(~real, float("-inf")).softmax(3)
        tokens = self.across((weights.unsqueeze(3) @ windows).squeeze(3))
        near = windows.unflatten(3, (WINDOW, WINDOW)).transpose(2, 3).flatten(3, 4).flatten(1, 2).movedim(3, 1)
        far = F.interpolate(tokens.movedim(3, 1), near.shape[2:], mode="bilinear", align_corners=True)
        return self.join(torch.cat((far, near), 1))[:, :, :height, :width].movedim(1, 3)


def to_windows(x: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, H, W, C]``, padded at the lower right, in 4x4 windows.

    Returns:
        ``[B, h, w, 16, C]``, and for each pixel of each window whether it is real, ``[h, w, 16]``.
    """
    height, width = x.shape[1:3]
    bottom, right = -height % WINDOW, -width % WINDOW
    x = F.pad(x, (0, 0, 0, right, 0, bottom))
    real = torch.ones((height, width), dtype=torch.bool, device=x.device)
    real = F.pad(real, (0, right, 0, bottom))
    windows = x.unflatten(1, (-1, WINDOW)).unflatten(3, (-1, WINDOW)).transpose(2, 3).flatten(3, 4)
    return windows, real.unflatten(0, (-1, WINDOW)).unflatten(2, (-1, WINDOW)).transpose(1, 2).flatten(2)


class WindowAttention(nn.Module):
    """Multi-head self-attention of the real pixels of each window."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, windows: Tensor, real: Tensor) -> Tensor:
        """``[B, h, w, 16, C]`` to the same shape; ``real``, ``[h, w, 16]``, says which pixels there are."""
        # one window per row of the batch: PyTorch's ONNX exporter takes attention with four axes only
        rows = windows.flatten(0, 2)
        queries, keys, values = (
            layer(rows).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mask = real.expand(windows.shape[0], -1, -1, -1).flatten(0, 2)[
            :, None, None
        ]  # the same for all heads and queries
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2)).view_as(windows)


class AxialAttention(nn.Module):
    """Attention along rows and along columns, one head, with scores that fall with the squared distance.

    ``softmax(q k - |s| (i - j)^2) v`` along each axis, and the sum of both; the scores are not scaled.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.shift = nn.Parameter(torch.randn(1).abs())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same shape."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        along_columns = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        return self._attend(q, k, v) + along_columns

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Along the last axis of pixels of ``[B, lines, N, C]``."""
        places = torch.arange(q.shape[2], device=q.device)
        distance = (places[:, None] - places).square()
        return (q @ k.transpose(2, 3) - self.shift.abs() * distance).softmax(3) @ v


class ExternalAttention(nn.Module):
    """Attention of all tokens to a memory of 64 slots, which the heads share.

    The weights are a softmax over the tokens, divided by their sum over the slots.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, heads = EXPANSION * width, EXPANSION * HEADS
        self.heads = heads
        self.expand, self.reduce = nn.Linear(width, wide), nn.Linear(wide, width)
        self.keys, self.values = nn.Linear(wide // heads, SLOTS), nn.Linear(SLOTS, wide // heads)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` to the same shape."""
        x = self.expand(x).unflatten(2, (self.heads, -1))
        weights = self.keys(x).softmax(1)
        weights = weights / (1e-9 + weights.sum(3, keepdim=True))
        return self.reduce(self.values(weights).flatten(2))
