"""nnU-Net's two U-Nets with XAttnRes in every stage (eq. 9 to 11), 2D and 3D.

The classes are subclasses of dynamic-network-architectures' networks. They have one more argument, ``routing``. Layers
that both have use the same state-dict keys, so that stock checkpoints can initialise them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.architectures.sizes import zero_gradients
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes


class _RoutedUNet(nn.Module):
    """Adds a routing to a network with ``.encoder`` and ``.decoder`` of dynamic-network-architectures."""

    encoder: Any
    decoder: Any
    encoder_xattnres: Any
    decoder_xattnres: Any

    def _add_routing(self, routing: dict[str, Any] | None, nonlin_first: bool = False) -> None:
        """Replace the decoder's stages if skip connections are removed, and add the XAttnRes instances."""
        self.routing = Routing.parse(routing)
        encoder, decoder = self.encoder, self.decoder
        widths = list(encoder.output_channels)
        if not self.routing.skip_connections:
            for index, stage in enumerate(decoder.stages):
                width = widths[-(index + 2)]
                decoder.stages[index] = StackedConvBlocks(
                    len(stage.convs), encoder.conv_op, width, width, encoder.kernel_sizes[-(index + 2)], 1,
                    encoder.conv_bias, encoder.norm_op, encoder.norm_op_kwargs, encoder.dropout_op,
                    encoder.dropout_op_kwargs, encoder.nonlin, encoder.nonlin_kwargs, nonlin_first,
                )  # fmt: skip
        if self.routing.encoder:
            self.encoder_xattnres = nn.ModuleList(
                self._xattnres(widths[:stage], width) for stage, width in enumerate(widths)
            )
        if self.routing.decoder:
            up = widths[-2::-1]  # widths of the decoder's stages, in order of computation
            self.decoder_xattnres = nn.ModuleList(
                self._xattnres(widths + up[:stage], width) for stage, width in enumerate(up)
            )

    def _xattnres(self, history: Sequence[int], width: int) -> XAttnRes:
        return XAttnRes(
            history, width, self.encoder.conv_op,
            query_init=self.routing.query_init, gated=self.routing.stock_start,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``[B, num_classes, *S]``; with deep supervision a list, highest resolution first.

        Raises:
            ValueError: an axis of the input is no multiple of its strides' product.
        """
        history = History()
        skips = self._encode(x, history)
        x = skips[-1]
        decoder = self.decoder
        outputs = []
        last = len(decoder.stages) - 1
        for index, stage in enumerate(decoder.stages):
            x = decoder.transpconvs[index](x)
            if x.shape[2:] != skips[-(index + 2)].shape[2:]:
                multiples = np.prod(self.encoder.strides, axis=0).tolist()
                raise ValueError(f"the axes of the input must be multiples of {multiples}")
            if self.routing.decoder:
                x = self.decoder_xattnres[index](history, x)
            if self.routing.skip_connections:
                x = torch.cat((x, skips[-(index + 2)]), 1)
            x = stage(x)
            if self.routing.decoder:
                history.append(x)
            if decoder.deep_supervision or index == last:
                outputs.append(decoder.seg_layers[index](x))
        if decoder.deep_supervision:
            return outputs[::-1]
        return zero_gradients(outputs[0], decoder.seg_layers[:-1]) if self.training else outputs[0]

    def _encode(self, x: Tensor, history: History) -> list[Tensor]:
        """The output of every encoder stage; the first block of a stage, which is strided, is ``Down`` in eq. 10."""
        if getattr(self.encoder, "stem", None) is not None:
            x = self.encoder.stem(x)
        skips = []
        for index, stage in enumerate(self.encoder.stages):
            down, *rest = _blocks(stage)
            x = down(x)
            if self.routing.encoder:
                x = self.encoder_xattnres[index](history, x)
            for block in rest:
                x = block(x)
            skips.append(x)
            if self.routing.encoder or self.routing.decoder:
                history.append(x)
        return skips

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Elements of all feature maps for one sample of ``input_size``, by which planners estimate memory.

        It is nnU-Net's count for the layers, plus the maps that XAttnRes keeps until the backward pass: the pooled map
        of each history entry and the aggregated map of each instance.
        """
        sizes = [tuple(input_size)]
        for strides in self.encoder.strides:
            sizes.append(tuple(have // stride for have, stride in zip(sizes[-1], strides, strict=True)))
        stage_sizes = sizes[1:]
        total = super().compute_conv_feature_map_size(input_size)  # type: ignore[misc]  # of the stock class, the other base
        if self.routing.encoder:
            for index, mix in enumerate(self.encoder_xattnres):
                total += mix.feature_map_size(stage_sizes[:index], stage_sizes[index])
        if self.routing.decoder:
            up = stage_sizes[-2::-1]
            for index, mix in enumerate(self.decoder_xattnres):
                total += mix.feature_map_size(stage_sizes + up[:index], up[index])
        return total


def _blocks(stage: Any) -> list[nn.Module]:
    """The blocks of an encoder stage: convolutions of the plain encoder, residual blocks of the residual one."""
    if isinstance(stage, nn.Sequential):
        (stage,) = stage
    return list(stage.convs if hasattr(stage, "convs") else stage.blocks)


class XAttnResUNet(_RoutedUNet, PlainConvUNet):
    """``PlainConvUNet`` with XAttnRes.

    Args:
        routing: ``skip_connections``, ``encoder``, ``decoder`` (booleans, all true by default), ``query_init`` and
            ``stock_start``; see :class:`~nnunetv2_xattnres.architectures.routing.Routing`. With the values of
            ``baseline``, this is ``PlainConvUNet``: same state-dict keys, same outputs.
        *args, **kwargs: Arguments of ``PlainConvUNet``.

    Raises:
        ValueError: a key or value of the routing is unknown.
    """

    def __init__(self, *args: Any, routing: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._add_routing(routing, kwargs.get("nonlin_first", False))


class XAttnResResidualEncoderUNet(_RoutedUNet, ResidualEncoderUNet):
    """``ResidualEncoderUNet`` with XAttnRes; the first residual block of a stage is ``Down`` in eq. 10.

    Args:
        routing: See :class:`XAttnResUNet`.
        *args, **kwargs: Arguments of ``ResidualEncoderUNet``.

    Raises:
        ValueError: a key or value of the routing is unknown.
    """

    def __init__(self, *args: Any, routing: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._add_routing(routing)
