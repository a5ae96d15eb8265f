"""Checks of models and plans from elsewhere, made before nnU-Net imports, calls or unpickles what they name."""

from __future__ import annotations

import inspect
import pydoc
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import check_entries, read_object
from nnunetv2_xattnres.weights_files import numpy_objects

_ADVICE = "plan this data set again, or get the model again from someone you trust"
_PARTS: Mapping[str, type] = {"network_class_name": str, "arch_kwargs": dict, "_kw_requires_import": list}


def check_model_files(plans: Path, checkpoints: Sequence[Path]) -> None:
    """Check a trained model before nnU-Net opens it: the classes in its plans, and the objects in its checkpoints.

    Raises:
        InputError: the plans name something that is no network or layer, or a checkpoint is damaged or holds other
            objects than weights, numbers and texts.
    """
    content = read_object(plans, "get the model again", entries={"configurations": dict}) or {}
    for name, configuration in content["configurations"].items():
        if isinstance(configuration, dict) and "architecture" in configuration:
            check_architecture(configuration["architecture"], f"{plans}, configuration {name}")
    for checkpoint in checkpoints:
        check_checkpoint(checkpoint)


def check_architecture(architecture: Any, where: str) -> None:
    """Check that all that an ``architecture`` of a plans file names is a network, a layer, or a function of torch.

    nnU-Net imports these names and calls the network's, whatever it is: ``os.system``, for example. A name that does
    not exist passes, because nnU-Net reports it.

    Args:
        architecture: ``network_class_name``, ``arch_kwargs``, ``_kw_requires_import``.
        where: Names of its plans and configuration, for the message.

    Raises:
        InputError: a name is something else; nothing was called, and nothing of Python's own library was imported.
    """
    check_parts(architecture, where)
    from torch import nn

    def is_network(found: Any) -> bool:
        return inspect.isclass(found) and issubclass(found, nn.Module)

    def is_layer(found: Any) -> bool:
        return is_network(found) or (inspect.isroutine(found) and found in vars(nn.functional).values())

    problems = _problem("network_class_name", architecture["network_class_name"], is_network, _find_network)
    for key in architecture["_kw_requires_import"]:
        value = architecture["arch_kwargs"].get(key) if isinstance(key, str) else None
        if value is not None:
            problems += _problem(str(key), value, is_layer, pydoc.locate)
    if problems:
        raise InputError(
            f"{where} names what is no network or layer, and nnU-Net would call it ({', '.join(problems)}): {_ADVICE}"
        )


def check_parts(architecture: Any, where: str) -> None:
    """Check that an ``architecture`` has its three parts, without a look at what they name.

    Raises:
        InputError: it is no object, or a part is missing or has another type.
    """
    if not isinstance(architecture, dict):
        raise InputError(f"{where} has an architecture that is no object: {_ADVICE}")
    check_entries(architecture, where, _PARTS, _ADVICE)


def _problem(key: str, name: Any, fits: Callable[[Any], bool], find: Callable[[str], Any]) -> list[str]:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        return [f"{key} is {str(name)[:100]!r}"]
    if name.split(".")[0] in sys.stdlib_module_names:  # importing some of them has effects
        return [f"{key} is {name}"]
    try:
        found = find(name)
    except Exception as error:  # a module can fail in every way while it is imported
        return [f"{key} is {name}, which cannot be imported ({type(error).__name__}: {error})"]
    return [] if found is None or fits(found) else [f"{key} is {name}"]


def _find_network(name: str) -> Any:
    """What nnU-Net finds by the name of a network."""
    found = pydoc.locate(name)
    if found is not None:
        return found
    import dynamic_network_architectures as networks
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = str(Path(networks.__path__[0]) / "architectures")
    return recursive_find_python_class(folder, name.split(".")[-1], f"{networks.__name__}.architectures")


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint holds weights, numbers and texts alone, without running what it holds.

    nnU-Net unpickles checkpoints, which runs any program that is hidden in them. Therefore torch's safe reader opens
    the file first. It knows the objects of nnU-Net's checkpoints, of which some are numbers of NumPy.

    Raises:
        InputError: it holds other objects, or cannot be read.
    """
    import torch

    again = "get it or train it again"
    if not zipfile.is_zipfile(path):  # torch's files are archives, whose table of contents is written last
        raise InputError(f"{path} cannot be read as a checkpoint (it is cut off or another kind of file): {again}")
    try:
        with torch.serialization.safe_globals(numpy_objects()):
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects beside weights and numbers, and opening them can run any program "
            f"({_reason(error)}): get it again from someone you trust; if you trust it, load it with torch.load, "
            "remove these objects, and save it again"
        ) from error
    except Exception as error:  # a damaged file fails in torch or in pickle
        raise InputError(f"{path} cannot be read as a checkpoint ({_reason(error)}): {again}") from error


def _reason(error: Exception) -> str:
    """The line of torch's long message that names the object."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = next((line for line in lines if "GLOBAL" in line or "global" in line), None)
    return (named or (lines[0] if lines else type(error).__name__))[:200]
