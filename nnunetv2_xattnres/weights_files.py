"""Opens files of weights without running code from them, and says what is wrong with those that cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import WEIGHTS_KEY

WRAPPERS = ("module.", "_orig_mod.")  # of data-parallel training, and of torch.compile


def kind_of_file(path: Path) -> str | None:
    """What a file is in place of weights that its ending speaks of, by its beginning."""
    with path.open("rb") as stream:
        raw = stream.read(1024)
    start = raw.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: use the link of the file itself, not of the page that shows it"
    if not raw:
        return "damaged: the file is empty"
    # safetensors: the length of a JSON header in eight bytes, then that header
    if raw[8:10] == b'{"' and path.suffix != ".safetensors":
        return "a safetensors file: give it the ending .safetensors"
    return None


def reason_of(error: Exception) -> str:
    """The type and the first line of an error of torch, pickle, zipfile or safetensors."""
    if isinstance(error, UnpicklingError):  # torch's text advises to load the file without protection
        return type(error).__name__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"


def read_weights(path: Path) -> dict[str, Any]:
    """The weights in a checkpoint of nnU-Net, or in a file of weights alone: name to tensor, on the CPU.

    The file is opened with torch's ``weights_only``, so that no code in it runs. Beside tensors it may hold numpy's
    scalars, which are in every checkpoint of nnU-Net.

    Raises:
        InputError: the file is missing, damaged, or holds something else; or weights are not finite.
    """
    import torch

    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give a checkpoint (.pth)")
    if kind := kind_of_file(path):
        raise InputError(f"{path} is no checkpoint: it is {kind}")
    try:
        with torch.serialization.safe_globals(numpy_objects()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the version of pickle in damaged files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in torch, in pickle or in zipfile
        if isinstance(error, UnpicklingError) and "GLOBAL" in str(error):
            what = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
            raise InputError(
                f"{path} is not opened, for safety: beside weights and numbers it holds Python objects ({what.strip()})"
                f". If you trust it, save what it has under {WEIGHTS_KEY} into a file of its own"
            ) from error
        raise InputError(f"{path} is damaged, or no checkpoint ({reason_of(error)})") from error
    weights = content
    for key in (WEIGHTS_KEY, "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            weights = content[key]
            break
    if not isinstance(weights, Mapping) or not weights:
        raise InputError(f"{path} holds no weights: a checkpoint of nnU-Net has them under {WEIGHTS_KEY}")
    named = {key: value for key, value in weights.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if others := [str(key) for key in weights if key not in named]:
        raise InputError(
            f"{path} holds no weights: a checkpoint of nnU-Net has them under {WEIGHTS_KEY}, and these are no tensors "
            "with names: "
            f"{', '.join(others)[:200]}"
        )
    if lost := [key for key, value in weights.items() if not value.isfinite().all()]:
        raise InputError(
            f"{path} comes from a training that failed: {len(lost)} of its {len(weights)} weights are not finite "
            f"numbers, such as {lost[0]}. Use an earlier checkpoint"
        )
    return _without_wrappers(weights)


def _without_wrappers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The names without what data-parallel training and torch.compile put before all of them."""
    found = dict(weights)
    while prefix := next((each for each in WRAPPERS if all(key.startswith(each) for key in found)), None):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def numpy_objects() -> list[Any]:
    """What NumPy's numbers and arrays are pickled with, by the names of its versions 1 and 2."""
    import numpy as np

    numbers = [np.dtype(name) for name in (bool, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")]
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    functions = [(function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for function, name in
                 ((scalar, "scalar"), (array, "_reconstruct"))]  # fmt: skip
    return [np.dtype, np.ndarray, *dict.fromkeys(map(type, numbers)), *functions]
