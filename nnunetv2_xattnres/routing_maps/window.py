"""Routing weights of a whole preprocessed image: nnU-Net's sliding window, its mirroring, and all folds.

nnU-Net averages the logits of overlapping tiles, of mirrored tiles and of folds. Here the routing weights are averaged
in the same way, with the same tiles and the same Gaussian. An average of weights that add up to 1 adds up to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import combinations, product
from typing import Any

import torch
import torch.nn.functional as F
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.readers import Reader, unwrapped, watched
from nnunetv2_xattnres.architectures.sizes import AnySizeNetwork


class _Enough(Exception):
    """Ends a forward pass: the last reader that is asked for has been seen."""


@torch.inference_mode()
def average_weights(predictor: Any, data: Tensor, readers: Sequence[Reader]) -> dict[str, list[Tensor]]:
    """The weights of some readers for a preprocessed image.

    All maps of these readers are in memory at once, K+1 images of float32 each: call it for one reader after another
    where they are large. A pass through the network ends behind the last of them.

    Args:
        predictor: An initialised ``nnUNetPredictor``: its network, folds, patch size, step size, mirroring and device.
        data: ``[C, *S]`` with three spatial axes, as nnU-Net's preprocessor makes it; S may be smaller than the patch.
        readers: What to read, in the order in which the network calls them.

    Returns:
        Module path to K+1 maps ``S`` on the CPU, float32, in the order of the entries. They add up to 1.
    """
    patch = tuple(predictor.configuration_manager.patch_size)
    padded, unpad = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
    size = tuple(padded.shape[1:])
    gaussian = torch.ones(patch)
    if predictor.use_gaussian:
        gaussian = compute_gaussian(
            patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu")
        )
    sums = {reader.module: [torch.zeros(size) for _ in reader.entries] for reader in readers}
    share = torch.zeros(size)
    for network in _folds(predictor):
        for place in _tiles(size, patch, predictor.tile_step_size):
            tile = _crop(padded, place).to(predictor.device)
            weights = _tile_weights(predictor, network, tile, readers)
            share[place] += gaussian
            for module, maps in weights.items():
                for total, part in zip(sums[module], maps, strict=True):
                    total[place] += gaussian * part
    inside = tuple(unpad[1:])
    for totals in sums.values():
        for index, total in enumerate(totals):
            totals[index] = total.div_(share)[inside]
    return sums


def sample_tile(predictor: Any, data: Tensor) -> Tensor:
    """The first tile of a preprocessed image, ``[1, C, *patch]``, to see the network's readers with."""
    patch = tuple(predictor.configuration_manager.patch_size)
    padded, _ = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
    return _crop(padded, next(_tiles(tuple(padded.shape[1:]), patch, 1.0))).to(predictor.device)


def to_input_size(network: nn.Module, weights: Tensor, size: Sequence[int]) -> Tensor:
    """Weights ``[B, K+1, *s]`` of a reader, linearly interpolated to the network's input of ``size``."""
    if isinstance(network, AnySizeNetwork):
        return network.at_input_size(weights, size)
    if tuple(weights.shape[2:]) == tuple(size):
        return weights
    return F.interpolate(weights, tuple(size), mode="bilinear" if len(size) == 2 else "trilinear")


def _folds(predictor: Any) -> Iterator[nn.Module]:
    network = unwrapped(predictor.network).to(predictor.device).eval()
    for parameters in predictor.list_of_parameters:
        network.load_state_dict(parameters)
        yield network


def _tiles(size: tuple[int, ...], patch: tuple[int, ...], step: float) -> Iterator[tuple[Any, ...]]:
    """Indices of all tiles; a 2D configuration goes through the volume slice by slice."""
    flat = len(size) - len(patch)
    steps = compute_steps_for_sliding_window(size[flat:], patch, step)
    for corner in product(*map(range, size[:flat]), *steps):
        sides = (slice(start, start + length) for start, length in zip(corner[flat:], patch, strict=True))
        yield (*corner[:flat], *sides)


def _crop(image: Tensor, place: tuple[Any, ...]) -> Tensor:
    """The tile ``[1, C, *patch]`` of an image ``[C, *S]``."""
    index = (slice(None), *place)
    return image[index][None]


def _tile_weights(predictor: Any, network: nn.Module, tile: Tensor, readers: Sequence[Reader]) -> dict[str, Tensor]:
    """Module path to weights ``[K+1, *patch]`` on the CPU, averaged over the tile and its mirror images."""
    axes = [axis + 2 for axis in predictor.allowed_mirroring_axes or ()] if predictor.use_mirroring else []
    mirrors = [axes_ for count in range(len(axes) + 1) for axes_ in combinations(axes, count)]
    modules = [reader.module for reader in readers]
    sums: dict[str, Tensor] = {}
    for mirror in mirrors:
        seen: dict[str, Tensor] = {}

        def see(path: str, weights: Tensor, seen: dict[str, Tensor] = seen) -> None:
            seen.setdefault(path, weights)  # of the first call, where a reader is called again
            if len(seen) == len(modules):
                raise _Enough

        autocast = torch.autocast("cuda") if tile.device.type == "cuda" else nullcontext()  # as nnU-Net does
        with watched(network, modules, see), autocast, suppress(_Enough):
            network(torch.flip(tile, mirror))
        for module, weights in seen.items():
            weights = torch.flip(to_input_size(network, weights, tile.shape[2:]), mirror)[0].cpu()
            sums[module] = sums[module].add_(weights) if module in sums else weights
    return {module: total.div_(len(mirrors)) for module, total in sums.items()}
