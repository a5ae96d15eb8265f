"""Compares the weights of one network with another, name by name, and copies those that fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Misfit:
    """A tensor that both networks have by this name, in different shapes."""

    name: str
    here: Shape
    there: Shape


@dataclass(frozen=True)
class Comparison:
    """What a network can take from a source. A tensor with several names is listed once, by its first name.

    Attributes:
        sizes: Name to elements of every tensor of the network.
        taken: Name in the network to the name in the source.
        new: Names that the source does not have.
        misfits: Tensors that the source has in another shape.
        left: Names in the source that the network does not have.
    """

    sizes: dict[str, int]
    taken: dict[str, str]
    new: list[str]
    misfits: list[Misfit]
    left: list[str]


def compare(network: nn.Module, source: Mapping[str, Tensor]) -> Comparison:
    """Which tensors of ``source`` fit into ``network``: those with the same name and the same shape."""
    # nnU-Net's networks have the same layer under several names, such as encoder.* and decoder.encoder.*
    names: dict[int, list[str]] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        same = names.setdefault(id(tensor), [])
        same.append(name)
        if len(same) == 1:
            tensors[name] = tensor
    taken: dict[str, str] = {}
    new: list[str] = []
    misfits: list[Misfit] = []
    for group in names.values():
        first = group[0]
        found = [name for name in group if name in source]
        fits = [name for name in found if source[name].shape == tensors[first].shape]
        if fits:
            taken[first] = fits[0]
        elif found:
            misfits.append(Misfit(first, tuple(tensors[first].shape), tuple(source[found[0]].shape)))
        else:
            new.append(first)
    known = {name for group in names.values() for name in group}
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    return Comparison(sizes, taken, new, misfits, _listed_once(source, known))


def _listed_once(source: Mapping[str, Tensor], known: set[str]) -> list[str]:
    """Names of the source that are not ``known``, one per tensor in memory."""
    left: dict[tuple[int, Shape], str] = {}
    for name, tensor in source.items():
        if name not in known:
            left.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
    return list(left.values())


def copy(network: nn.Module, source: Mapping[str, Tensor], comparison: Comparison) -> None:
    """Give the network what it takes from the source; the other weights stay as they are."""
    own = network.state_dict()
    with torch.no_grad():
        for name, theirs in comparison.taken.items():
            own[name].copy_(source[theirs])


def is_useful(network: nn.Module, comparison: Comparison) -> bool:
    """Whether any kernel or matrix is taken; biases and norms alone fit by chance, for example of 2D into 3D."""
    own = network.state_dict()
    return any(own[name].ndim > 1 for name in comparison.taken)
