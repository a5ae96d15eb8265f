"""Pretrained weights for an encoder: timm's hub, a timm file, or a file of the encoder's original release."""

from __future__ import annotations

import sys
import threading
import time
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork, build_encoder
from nnunetv2_xattnres.architectures.vit_hybrid import HybridViT
from nnunetv2_xattnres.encoders import OPTIONS, PVT, R50_VIT
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.weights_files import kind_of_file, reason_of

HUB_SILENCE = 60.0  # seconds without a byte from the hub, after which it is given up
SHOWN = 8  # problems in a message


def load_encoder_weights(network: PretrainedEncoderNetwork) -> None:
    """Load what ``network.encoder_weights`` asks for into every parameter of the encoder; nothing where it is ``None``.

    Raises:
        InputError: the weights are missing, unreadable or of another network; the network is then unchanged.
    """
    source, name = network.encoder_weights, network.encoder_name
    if source is None:
        return
    whole = _from_hub(name) if source == "imagenet" else _from_file(Path(source), name)
    network.encoder.load_state_dict(_checked_part_of(whole, network.encoder, source, name))


def check_encoder_weights(name: str, source: str | None) -> None:
    """Check a file of weights for the encoder ``name`` as loading would; ``imagenet`` and ``None`` need no file.

    Raises:
        InputError: the file is missing, unreadable or of another network.
    """
    if source not in (None, "imagenet"):
        _checked_part_of(_from_file(Path(source), name), _without_content(name), source, name)


@cache  # a file of another network is compared with every encoder
def _without_content(name: str) -> nn.Module:
    """An encoder without memory for its weights."""
    with torch.device("meta"):
        return build_encoder(name)


def _checked_part_of(whole: Mapping[str, Tensor], encoder: nn.Module, source: str, name: str) -> dict[str, Tensor]:
    """The encoder's part of a file, in the encoder's names.

    Raises:
        InputError: the file holds something else, or not all of it, or numbers that are not finite.
    """
    part = _part_of(whole, encoder, name)
    if problems := _differences(part, encoder, name):
        what = _what_it_holds(whole, encoder, name)
        raise InputError(f"{source} does not hold the weights of {name}{what}. {_advice(name)}", _first(problems))
    if lost := [f"{key} is not finite (NaN or infinite)" for key, value in part.items() if not value.isfinite().all()]:
        raise InputError(
            f"{source} holds weights of {name} that are not finite numbers: it comes from a training that failed. "
            f"{_advice(name)}",
            _first(lost),
        )
    return part


def _first(problems: list[str]) -> list[str]:
    return problems[:SHOWN] + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])


def _part_of(state: Mapping[str, Tensor], encoder: nn.Module, name: str) -> dict[str, Tensor]:
    """The encoder's part of a file in timm's names, or in those of the original release, in the encoder's names."""
    whole = _whole(name)
    part = _in_encoders_names(state, encoder, whole)
    # timm's own map, where there is one, from the release's names (block1.0) to its own (stages.0.blocks.0). It takes
    # some files that are in its own names already for old ones, such as a Swin transformer without its head
    rename = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if rename and _differences(part, encoder, name):
        positions = {key: value for key, value in state.items() if key == "pos_embed"}  # for the encoder's own grid
        try:
            renamed = rename({key: value for key, value in state.items() if key not in positions}, whole)
            return _in_encoders_names({**renamed, **positions}, encoder, whole)
        except Exception:  # it looks into tensors that a file of another network has in other shapes, or not at all
            return part
    return part


def _in_encoders_names(state: Mapping[str, Tensor], encoder: nn.Module, whole: nn.Module) -> dict[str, Tensor]:
    """The encoder's part of timm's whole network, in the encoder's names.

    timm writes ``layers_0`` in a network of features for ``layers.0`` in the whole one. What the whole one has and the
    encoder has not (a head, the class token, the blocks that Swin-UNet leaves out) is dropped. Position embeddings are
    laid out for the encoder's grid. Counters of batches, which older files lack, are zero.
    """
    own = {key.replace("_", "."): key for key in encoder.state_dict()}
    dropped = {key.replace("_", ".") for key in whole.state_dict()} - own.keys()
    found = {}
    for key, value in state.items():
        plain = key.replace("_", ".")
        if plain not in dropped and not key.startswith("head."):
            found[own.get(plain, key)] = value
    if isinstance(encoder, HybridViT) and "pos_embed" in found:
        found["pos_embed"] = encoder.fit_positions(found["pos_embed"])
    for key in own.values():
        if key.endswith(".num_batches_tracked"):
            found.setdefault(key, torch.tensor(0))
    return found


@cache
def _whole(name: str) -> nn.Module:
    """timm's whole network, of which the encoder is a part, without memory for its weights."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def _differences(state: Mapping[str, Tensor], encoder: nn.Module, name: str) -> list[str]:
    """What stands between a state and loading it into the encoder."""
    expected = encoder.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    return problems + [f"{key} is not part of {name}" for key in state if key not in expected]


def _what_it_holds(whole: Mapping[str, Tensor], encoder: nn.Module, name: str) -> str:
    """What a file holds instead, as far as its names and shapes tell."""
    for other in OPTIONS:
        if other == name:
            continue
        other_encoder = _without_content(other)
        if not _differences(_part_of(whole, other_encoder, other), other_encoder, other):
            return f": it holds those of {other} (`nnunetv2_xattnres plan --encoder {other}`)"
    expected = encoder.state_dict()
    first = next(iter(expected))
    for key in whole:
        prefix = key.removesuffix(first)
        if prefix and prefix != key and all(prefix + each in whole for each in expected):
            return f" under their own names: each begins with {prefix!r}, so save that part without it"
    return ""


def _from_hub(name: str) -> dict[str, Tensor]:
    import timm

    made: list[dict[str, Tensor]] = []
    failed: list[Exception] = []

    def fetch() -> None:
        try:
            made.append(timm.create_model(name, pretrained=True).state_dict())
        except Exception as error:  # the hub's client raises what its transport raises
            failed.append(error)

    # a daemon: behind a silent proxy it may never end, and the command has to
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    heard, received = time.monotonic(), _bytes_received(name)
    while thread.is_alive():
        thread.join(timeout=min(1.0, HUB_SILENCE))
        now = _bytes_received(name)
        if now != received:
            heard, received = time.monotonic(), now
        if thread.is_alive() and time.monotonic() - heard > HUB_SILENCE:
            raise InputError(
                f"timm cannot fetch the ImageNet weights of {name}: no answer from the hub within "
                f"{HUB_SILENCE:g} seconds. {_advice(name)}"
            )
    if failed:
        error = failed[0]
        raise InputError(
            f"timm cannot fetch the ImageNet weights of {name} ({type(error).__name__}: {error}). {_advice(name)}"
        ) from error
    return made[0]


def _bytes_received(name: str) -> int:
    """Size of the encoder's files in the hub's cache, which grows while a download proceeds."""
    from huggingface_hub.constants import HF_HUB_CACHE

    total = 0
    for file in Path(HF_HUB_CACHE).glob(f"models--timm--{name}*/blobs/*"):
        try:
            total += file.stat().st_size
        except OSError:  # renamed meanwhile
            continue
    return total


def _from_file(path: Path, name: str) -> dict[str, Tensor]:
    """The weights in a file, in the names that it has for them."""
    from timm.models import load_state_dict

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"{path}, which encoder_weights in the plans names, {what}. {_advice(name)}")
    if kind := kind_of_file(path):
        raise InputError(f"{path} holds no weights of {name}: it is {kind}. {_advice(name)}")
    if path.suffix == ".npz" and name != R50_VIT:
        raise InputError(f"{path} holds no weights of {name}: it is a NumPy archive. {_advice(name)}")
    try:
        if path.suffix == ".npz":
            return _from_vit_release(path)
        # also the averaged weights of a training (state_dict_ema, model_ema), without the prefix of DDP
        state = load_state_dict(str(path), use_ema=True, weights_only=True)
    except Exception as error:  # a damaged file fails in torch, in pickle, in zipfile or in safetensors
        reason = "it is damaged or no file of weights"
        if isinstance(error, UnpicklingError) and zipfile.is_zipfile(path):
            reason = (
                "it holds Python objects beside the weights, which are not loaded for safety: save the weights alone"
            )
        raise InputError(
            f"{path} cannot be read as weights of {name}: {reason} ({reason_of(error)}). {_advice(name)}"
        ) from error
    if not all(isinstance(value, Tensor) for value in state.values()):
        others = ", ".join(key for key, value in state.items() if not isinstance(value, Tensor))[:200]
        raise InputError(
            f"{path} cannot be read as weights of {name}: it is damaged or no file of weights, as these entries are "
            f"no tensors: {others}. {_advice(name)}"
        )
    return state


def _from_vit_release(path: Path) -> dict[str, Tensor]:
    """The weights in a file of Google's release (``R50+ViT-B_16.npz``), which timm reads into a network of its own."""
    import timm

    whole: Any = timm.create_model(R50_VIT, pretrained=False)
    whole.load_pretrained(str(path))
    return whole.state_dict()


def _advice(name: str) -> str:
    import timm

    release = ""
    if name in PVT:
        release = f" or of the PVT release ({name}.pth)"
    elif name == R50_VIT:
        release = " or of the ViT release (R50+ViT-B_16.npz)"
    source = timm.get_pretrained_cfg_value(name, "hf_hub_id")
    return (
        f"Put the file of {source} (model.safetensors or pytorch_model.bin){release} "
        "on this machine and name it as encoder_weights (`nnunetv2_xattnres plan --encoder-weights FILE`), or write "
        "null there to train from random weights"
    )
