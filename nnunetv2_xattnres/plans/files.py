"""Reading, checking and writing plans files in nnU-Net's preprocessed folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError


def dataset_folder(dataset: int | str) -> Path:
    """The data set's folder in ``nnUNet_preprocessed``, by number (``11``) or name (``Dataset011_ClinicDB``).

    Raises:
        InputError: the variable is not set, or there is no such folder, or several.
    """
    root = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112
    if not root:
        raise InputError("nnUNet_preprocessed is not set: export it, as for every nnU-Net command")
    text = str(dataset)
    if text.startswith("Dataset"):
        found = [Path(root) / text]
    elif text.isdecimal():
        found = sorted(Path(root).glob(f"Dataset{int(text):03d}_*"))
    else:
        raise InputError(f"{text} is neither the number of a data set nor a name that starts with Dataset")
    found = [folder for folder in found if folder.is_dir()]
    if len(found) > 1:
        raise InputError(f"several data sets have the number {text} in {root}", [folder.name for folder in found])
    if not found:
        raise InputError(
            f"no data set {text} in {root}: run `nnUNetv2_plan_and_preprocess -d {text}` first, and see that "
            "nnUNet_preprocessed is the folder it wrote to"
        )
    return found[0]


def _read(path: Path, missing: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there: {missing}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None


def read_plans(dataset: int | str, plans_name: str) -> dict[str, Any]:
    """The content of a plans file; :class:`InputError` names the plans that are there instead."""
    folder = dataset_folder(dataset)
    there = [path.stem for path in sorted(folder.glob("*lans*.json"))]
    advice = f"the plans in that folder are {', '.join(there)}" if there else "run nnUNetv2_plan_and_preprocess first"
    return _read(folder / f"{plans_name}.json", advice)


def read_dataset_json(dataset: int | str) -> dict[str, Any]:
    """The data set's ``dataset.json``."""
    return _read(dataset_folder(dataset) / "dataset.json", "run nnUNetv2_plan_and_preprocess first")


def read_existing(dataset: int | str, plans_name: str) -> dict[str, Any] | None:
    """A plans file that we wrote before, ``None`` if there is none.

    Raises:
        InputError: there is a file of that name that is not ours.
    """
    path = dataset_folder(dataset) / f"{plans_name}.json"
    if not path.exists():
        return None
    plans = _read(path, "")
    if "xattnres" not in plans:
        raise InputError(f"{path} exists and was not written by this command: give another name with -o")
    return plans


def resolve(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with everything that it inherits (as nnU-Net reads it).

    Raises:
        InputError: it is not in the plans.
    """
    if configuration not in plans["configurations"]:
        there = ", ".join(plans["configurations"])
        raise InputError(f"no configuration {configuration} in {plans['plans_name']}: it has {there}")
    resolved = dict(plans["configurations"][configuration])
    seen = [configuration]
    while (parent := resolved.pop("inherits_from", None)) is not None:
        if parent in seen or parent not in plans["configurations"]:
            raise InputError(
                f"configuration {configuration} of {plans['plans_name']} inherits from {parent}: not usable"
            )
        seen.append(parent)
        resolved = {**plans["configurations"][parent], **resolved}
    if "architecture" not in resolved:
        raise InputError(f"{plans['plans_name']} are plans of nnU-Net before 2.4: plan this data set again")
    return resolved


def merge(existing: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``existing`` with the configurations of ``new`` added.

    Raises:
        InputError: anything in ``existing`` would change.
    """
    problems = [f"{key} is different" for key in new if key != "configurations" and new[key] != existing.get(key)]
    for name, configuration in new["configurations"].items():
        have = existing["configurations"].get(name)
        if have is not None and have != configuration:
            problems.append(f"configuration {name} is different")
    if problems:
        raise InputError(
            f"{existing['plans_name']} exists already, with another content: give another name with -o, or --overwrite "
            "to replace the whole file",
            problems,
        )
    return {**existing, "configurations": {**existing["configurations"], **new["configurations"]}}


def check_builds(plans: dict[str, Any], dataset_json: dict[str, Any], configurations: Sequence[str]) -> None:
    """Build each configuration's network as nnU-Net does, without memory for its weights.

    Raises:
        InputError: with a line for each configuration that does not build.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset_json)
    problems = []
    for name in configurations:
        configuration = manager.get_configuration(name)
        try:
            channels = determine_num_input_channels(manager, configuration, dataset_json)
            with torch.device("meta"):
                nnUNetTrainer.build_network_architecture(
                    manager, configuration, channels, labels.num_segmentation_heads, True
                )
        except Exception as error:  # whatever a network's constructor finds wrong is the user's to read
            problems.append(f"{name}: {type(error).__name__}: {error}")
    if problems:
        raise InputError("these configurations do not build, so nothing was written", problems)


def save_plans(dataset: int | str, plans: dict[str, Any]) -> Path:
    """Write the plans under their name, all or nothing; returns the file."""
    path = dataset_folder(dataset) / f"{plans['plans_name']}.json"
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    temporary.replace(path)
    return path
