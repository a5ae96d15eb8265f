"""Gives a network's encoder the pretrained weights that the plans name, when a training starts."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def load_pretrained_encoder(network: nn.Module, log: Callable[[str], None]) -> None:
    """Load what ``encoder_weights`` in the plans names, and say so; nothing for a network without such an encoder.

    Args:
        network: Without the wrappers of DDP and ``torch.compile``.
        log: Takes a line for the log.

    Raises:
        InputError: the weights cannot be loaded; a training must not start then.
    """
    from nnunetv2_xattnres.architectures.encoder_weights import load_encoder_weights
    from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork

    if not isinstance(network, PretrainedEncoderNetwork):
        return
    load_encoder_weights(network)
    name = f"{type(network).__name__}'s encoder ({network.encoder_name})"
    if network.encoder_weights is None:
        log(f"{name} starts from random weights: encoder_weights is null in the plans")
    else:
        log(f"{name} loaded from {network.encoder_weights}")
