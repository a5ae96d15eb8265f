"""The base of 2D networks for images of any size: a fixed input size, padding, cropping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.dry_run import dry_run
from nnunetv2_xattnres.architectures.xattnres import XAttnRes


class AnySizeNetwork(nn.Module):
    """A 2D encoder-decoder for inputs of any size.

    The input is resized to ``input_size``, if that is set, and zero-padded at its lower right to a multiple of
    ``stride``. The logits are cropped and resized back. Subclasses set ``decoder`` (with ``deep_supervision``) and
    implement :meth:`segment`.

    Args:
        stride: Input pixels per pixel of the deepest feature map.
        input_size: Height and width to which inputs are resized (bilinear, antialiased), or ``None``.

    Raises:
        ValueError: ``input_size`` is not two positive integers.
    """

    decoder: Any
    input_channels: int
    input_size: tuple[int, ...] | None

    def __init__(self, stride: int, input_size: Sequence[int] | None) -> None:
        super().__init__()
        if input_size is not None and (len(input_size) != 2 or min(input_size) < 1):
            raise ValueError(f"input_size is {input_size!r}: give a height and a width in pixels, or null")
        self.stride = stride
        self.input_size = None if input_size is None else (int(input_size[0]), int(input_size[1]))

    def segment(self, x: Tensor) -> list[Tensor]:
        """Logits of a padded input ``[B, C, H, W]``, of any sizes, the most refined first.

        Without deep supervision only the first counts.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``[B, num_classes, H, W]`` of an input ``[B, input_channels, H, W]``.

        With deep supervision it is a list, and all have the size of the input.
        """
        size = x.shape[2:]
        if self.input_size is not None and tuple(size) != self.input_size:
            x = F.interpolate(x, self.input_size, mode="bilinear", antialias=True)
        outputs = [self.at_input_size(logits, size) for logits in self.segment(_pad(x, self.stride))]
        return outputs if self.decoder.deep_supervision else outputs[0]

    def at_input_size(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Maps of the padded input, ``[B, C, h, w]`` at any resolution, brought to an input of ``size``."""
        inner = size if self.input_size is None else self.input_size
        padded = [length + more for length, more in zip(inner, _padding(inner, self.stride), strict=True)]
        return resize(resize(maps, padded)[..., : inner[0], : inner[1]], size)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Elements of all feature maps for one sample of ``input_size``, by which planners estimate memory.

        These are the outputs of convolutions and linear layers, and the pooled and aggregated maps of each XAttnRes.
        """
        total = 0

        def add_output(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            nonlocal total
            total += output.numel()

        def add_xattnres(module: XAttnRes, inputs: tuple, output: Tensor) -> None:
            nonlocal total
            history, x = inputs
            total += module.feature_map_size([entry.shape[2:] for entry in history], x.shape[2:])

        instances = [module for module in self.modules() if isinstance(module, XAttnRes)]
        projections = {id(module) for instance in instances for module in instance.modules()}
        handles = [instance.register_forward_hook(add_xattnres) for instance in instances]
        handles += [
            module.register_forward_hook(add_output)
            for module in self.modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in projections
        ]
        try:
            with torch.no_grad():
                dry_run(self, (1, self.input_channels, *input_size))
        finally:
            for handle in handles:
                handle.remove()
        return total


def zero_gradients(logits: Tensor, unused: nn.Module) -> Tensor:
    """``logits``, through which each parameter of ``unused`` gets a gradient of zero.

    DistributedDataParallel needs a gradient of every parameter; heads for deep supervision have none where it is off.
    """
    return logits + 0 * sum(parameter.sum() for parameter in unused.parameters())


def padded_size(image_size: Sequence[int], stride: int) -> tuple[int, int]:
    """Height and width of images of ``image_size`` once they are padded to multiples of ``stride``.

    Raises:
        ValueError: ``image_size`` is not two positive integers.
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size is {image_size!r}: give a height and a width in pixels")
    height, width = (int(length) + -int(length) % stride for length in image_size)
    return height, width


def resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits ``[B, C, H, W]`` brought to ``size``, bilinearly."""
    return logits if logits.shape[2:] == tuple(size) else F.interpolate(logits, list(size), mode="bilinear")


def _pad(x: Tensor, stride: int) -> Tensor:
    """Zero-pad ``[B, C, H, W]`` to a multiple of ``stride`` with at least two pixels on the deepest feature map.

    One image of ``stride`` by ``stride`` would give a single value, on which batch normalisation cannot be trained.
    """
    bottom, right = _padding(x.shape[2:], stride)
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def _padding(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Rows and columns that :func:`_pad` adds."""
    height, width = size
    bottom, right = -height % stride, -width % stride
    return bottom, right + stride if height <= stride and width <= stride else right
