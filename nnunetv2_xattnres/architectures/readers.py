"""The routing weights of every XAttnRes in a network, with names for its stages and entries.

A reader is an :class:`~nnunetv2_xattnres.architectures.xattnres.XAttnRes` with at least one history entry. Works on any
module with such readers, and changes nothing in it: hooks note which part of the network made which tensor.

Example:
    >>> import torch
    >>> from nnunetv2_xattnres.architectures.paper_unet import PaperUNet
    >>> stages = read_routing(PaperUNet(3, 1).eval(), torch.rand(1, 3, 32, 32))
    >>> stages[-1].stage, stages[-1].entries[0], stages[-1].entries[-1], stages[-1].size
    ('decoder 4', 'encoder 1', 'current', (32, 32))
    >>> stages[-1].weights.shape
    torch.Size([1, 9, 32, 32])
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.errors import InputError

CURRENT = "current"
COMPILED = "_orig_mod"  # the only child of what torch.compile makes of a network


@dataclass(frozen=True)
class Reader:
    """One reader of a network, as it is called for inputs of one size.

    Attributes:
        stage: The stage that the mixture goes into, such as ``decoder 2``. Stages are counted from 1, in the order of
            computation.
        module: Path of the XAttnRes in the network.
        entries: Names of the K history entries, in the order of computation, then ``current``.
        size: Size of the maps, ``S``: that of the current feature.
        strides: Input pixels per pixel of each entry, the geometric mean of the axes. The current feature counts as
            coarse as the newest entry, where that is coarser: a decoder has enlarged it from there.
    """

    stage: str
    module: str
    entries: tuple[str, ...]
    size: tuple[int, ...]
    strides: tuple[float, ...]


@dataclass(frozen=True)
class StageRouting(Reader):
    """A reader with its weights for one input.

    Attributes:
        weights: ``[B, K+1, *S]``, float32, on the CPU: the second axis goes by ``entries``, and adds up to 1.
    """

    weights: Tensor = field(repr=False)


def find_readers(network: nn.Module, x: Tensor) -> list[Reader]:
    """Names and sizes of all readers, in the order in which they are called for ``x``, ``[B, C, *S]``.

    A reader that is called again is listed once. Where several readers belong to one stage, their modules are named.

    Raises:
        InputError: the network has no XAttnRes with a history.
    """
    return [note.reader for note in _observe(network, x)]


def read_routing(network: nn.Module, x: Tensor, stages: Collection[str] | None = None) -> list[StageRouting]:
    """The routing weights of one forward pass of ``x``, ``[B, C, *S]``, without gradients.

    The network stays in its mode: call ``network.eval()`` first where that is meant.

    Args:
        network: Any module with XAttnRes in it.
        x: Its input, on its device.
        stages: Names of the stages to read, such as ``decoder 2``; by default all.

    Raises:
        InputError: the network has no XAttnRes with a history, or no stage of that name.
    """
    notes = _observe(network, x, keep_weights=True)
    wanted = {reader.module for reader in select([note.reader for note in notes], stages)}
    return [StageRouting(**vars(note.reader), weights=note.weights) for note in notes if note.reader.module in wanted]


def select(readers: Sequence[Reader], stages: Collection[str] | None) -> list[Reader]:
    """The readers of these stages, in their order; ``None`` stands for all.

    Raises:
        InputError: there is no stage of that name.
    """
    if stages is None:
        return list(readers)
    known = list(dict.fromkeys(reader.stage for reader in readers))
    if unknown := [stage for stage in stages if stage not in known]:
        raise InputError(f"The network has no stage {', '.join(unknown)}: its stages are {', '.join(known)}.")
    return [reader for reader in readers if reader.stage in stages]


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside torch.compile's and data-parallel training's wrappers."""
    while True:
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        elif [name for name, _ in network.named_children()] == [COMPILED]:
            network = network.get_submodule(COMPILED)
        else:
            return network


def arguments_of(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Tensor]:
    """History and current feature, however a reader was called with them."""

    def forward(history: Any, x: Tensor) -> tuple[Any, Tensor]:
        return history, x

    return forward(*args, **named)


@contextmanager
def watched(network: nn.Module, modules: Sequence[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``see(path, weights)`` with the weights ``[B, K+1, *S]`` whenever one of the readers ``modules`` runs."""
    with ExitStack() as stack:
        for path in modules:

            def hook(module: XAttnRes, args: tuple, named: dict[str, Any], path: str = path) -> None:
                see(path, module.routing_weights(*arguments_of(args, named)))

            reader = network.get_submodule(path)
            stack.enter_context(_removed(reader.register_forward_pre_hook(hook, with_kwargs=True)))
        yield


@dataclass
class _Note:
    """What is seen of one call of a reader; names wait until the pass is over."""

    path: str
    history: Any
    groups: list[str | None]
    current: str | None
    sizes: list[tuple[int, ...]]
    weights: Tensor
    reader: Reader = None  # type: ignore[assignment]


def _observe(network: nn.Module, x: Tensor, keep_weights: bool = False) -> list[_Note]:
    network = unwrapped(network)
    origins = _Origins()
    notes: list[_Note] = []
    paths = {module: path for path, module in network.named_modules() if path}
    readers = {path: m for m, path in paths.items() if isinstance(m, XAttnRes) and len(m.projections)}
    if not readers:
        raise InputError(
            "This network has no XAttnRes that reads from a history, so it has no routing weights to show: "
            "name a model that was trained with one of the routed variants."
        )

    def note_output(module: nn.Module, args: tuple, named: dict[str, Any], output: Any) -> None:
        if isinstance(module, XAttnRes):  # a mixture belongs to the stage whose feature went in
            _, current = arguments_of(args, named)
            origins.add(output, origins.of(current))
        else:
            origins.add(output, paths[module])

    def note_call(module: XAttnRes, args: tuple, named: dict[str, Any]) -> None:
        if any(note.path == paths[module] for note in notes):
            return
        history, current = arguments_of(args, named)
        entries = list(history)
        notes.append(
            _Note(
                paths[module],
                history,
                [origins.of(entry) for entry in entries],
                origins.of(current),
                [tuple(map(int, entry.shape[2:])) for entry in (*entries, current)],
                module.routing_weights(history, current).float().cpu() if keep_weights else torch.empty(0),
            )
        )

    with ExitStack() as stack, torch.no_grad():
        for module in paths:
            # last of all hooks, so that it sees the output which others may have replaced
            stack.enter_context(_removed(module.register_forward_hook(note_output, with_kwargs=True)))
        for module in readers.values():
            stack.enter_context(_removed(module.register_forward_pre_hook(note_call, with_kwargs=True)))
        network(x)
    _name(notes, origins, tuple(x.shape[2:]))
    return notes


def _name(notes: list[_Note], origins: _Origins, input_size: tuple[int, ...]) -> None:
    """Give every note its reader: groups are the network's parts below what all of them have in common."""
    followers = {}
    for note in notes:
        entries = list(note.history)
        if len(entries) > len(note.groups):  # the stage's output has been appended since
            followers[id(note)] = origins.of(entries[len(note.groups)])
    made_by = [path for note in notes for path in (*note.groups, note.current, followers.get(id(note))) if path]
    common = _common(made_by)
    for note in notes:
        groups = [_group(path, common) for path in note.groups]
        entries = [
            f"{group} {groups[: index + 1].count(group)}" if group else f"entry {index + 1}"
            for index, group in enumerate(groups)
        ]
        own = _group(followers.get(id(note)) or note.current, common)
        strides = [
            math.prod(whole / part for whole, part in zip(input_size, size, strict=True)) ** (1 / len(input_size))
            for size in note.sizes
        ]
        note.reader = Reader(
            stage=f"{own} {groups.count(own) + 1}" if own else note.path,
            module=note.path,
            entries=(*entries, CURRENT),
            size=note.sizes[-1],
            strides=(*strides[:-1], max(strides[-2:])),
        )
    stages = [note.reader.stage for note in notes]
    for note in notes:
        if stages.count(note.reader.stage) > 1:
            note.reader = replace(note.reader, stage=f"{note.reader.stage} ({note.path})")


def _common(paths: Sequence[str]) -> list[str]:
    """The components that all paths begin with, their last ones left out."""
    split = [path.split(".")[:-1] for path in paths]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common


def _group(path: str | None, common: list[str]) -> str | None:
    """The first component below ``common``; a mere number stands for the list that it is in."""
    if path is None:
        return None
    parts = path.split(".")
    names = [part for part in parts[: len(common) + 1] if not part.isdigit()]
    return names[-1] if names else None


class _Origins:
    """Which module made a tensor: the outermost one that returned it, by itself or in a list."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref, str | None]] = {}

    def add(self, output: Any, path: str | None) -> None:
        if isinstance(output, Tensor):
            self._made[id(output)] = (weakref.ref(output), path)
        elif isinstance(output, list | tuple):
            for item in output:
                self.add(item, path)

    def of(self, tensor: Tensor) -> str | None:
        reference, path = self._made.get(id(tensor), (None, None))
        return path if reference is not None and reference() is tensor else None


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
