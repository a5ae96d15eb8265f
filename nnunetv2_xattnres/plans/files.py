"""Reads, checks and writes plans files in nnU-Net's preprocessed folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import check_entries, check_format, kind_of, require_object
from nnunetv2_xattnres.nnunet_layout import DATASET_JSON, PREPROCESSED, dataset_number, variable_folder
from nnunetv2_xattnres.outputs import written
from nnunetv2_xattnres.untrusted import check_architecture, check_parts

VARIANT_PLANS = "nnUNetXAttnResPlans"  # default name of the plans with the variants
OWN_KEY = "xattnres"  # our entry in such plans
PRETRAIN_KEY = "pretrain_info"  # of plans for weights that nnssl has pretrained
RECIPE_KEY = "paper_recipe"  # in a configuration: the paper's recipe, or changes to it
FORMAT = 1
DATASET_ENTRIES: Mapping[str, type] = {"labels": dict, "file_ending": str}  # what we read of dataset.json
_CONFIGURATION_ENTRIES: Mapping[str, type] = {
    "data_identifier": str, "patch_size": list, "spacing": list, "normalization_schemes": list,
}  # fmt: skip
_ADVICE = "repair it, or plan again"


def dataset_folder(dataset: int | str) -> Path:
    """The data set's folder in ``nnUNet_preprocessed``, by number (``11``) or name (``Dataset011_ClinicDB``).

    Raises:
        InputError: the variable is not set, or no folder or several folders match.
    """
    root = variable_folder(PREPROCESSED)
    text = str(dataset)
    if text.startswith("Dataset"):
        found = [root / text]
    elif text.isdecimal():
        found = sorted(root.glob(f"Dataset{int(text):03d}_*"))
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


def refuse_foreign_weights(plans: dict[str, Any], where: str) -> None:
    """Refuse plans that ask for weights which no command and no trainer of this package would load.

    nnU-Net's commands for networks that nnssl has pretrained write ``pretrain_info`` into the plans. Their own trainers
    load that checkpoint; any other trainer would start from random weights without a word.

    Args:
        plans: Content of a plans file.
        where: Its file or its name, for the message.

    Raises:
        InputError: they have that key.
    """
    inside = [name for name, values in plans["configurations"].items() if PRETRAIN_KEY in values]
    if PRETRAIN_KEY in plans or inside:
        raise InputError(
            f"{where} has {PRETRAIN_KEY}: it asks for weights that nnssl has pretrained, and this package does not "
            "load them. Train these plans with nnU-Net's trainer for them. Or plan without them "
            "(nnUNetv2_plan_experiment), and start from a checkpoint with `nnunetv2_xattnres warmstart`"
        )


def _read(path: Path, missing: str) -> dict[str, Any]:
    content = require_object(path, missing, _ADVICE, entries={"plans_name": str, "configurations": dict})
    for name, configuration in content["configurations"].items():
        if not isinstance(configuration, dict):
            raise InputError(f"{path} has {kind_of(configuration)} under {name} and not an object: {_ADVICE}")
    refuse_foreign_weights(content, str(path))
    return content


def read_plans(dataset: int | str, plans_name: str) -> dict[str, Any]:
    """The content of a plans file; if it is missing, :class:`InputError` names the plans that exist."""
    folder = dataset_folder(dataset)
    there = [path.stem for path in sorted(folder.glob("*lans*.json"))]
    advice = f"the plans in that folder are {', '.join(there)}" if there else "run nnUNetv2_plan_and_preprocess first"
    return _read(folder / f"{plans_name}.json", advice)


def read_dataset_json(dataset: int | str) -> dict[str, Any]:
    """The data set's ``dataset.json``."""
    return require_object(
        dataset_folder(dataset) / DATASET_JSON,
        "run nnUNetv2_plan_and_preprocess first",
        "copy it from nnUNet_raw again",
        entries=DATASET_ENTRIES,
    )


def check_name(plans_name: str) -> None:
    """Check a name of plans to write, which becomes the name of a file.

    Raises:
        InputError: it is none.
    """
    if not re.fullmatch(r"\w[\w.-]*", plans_name) or plans_name.endswith(".json"):
        raise InputError(
            f"--variants {plans_name}: give a name of plans, such as {VARIANT_PLANS}: letters, digits, _, - and ., "
            "without a folder and without .json"
        )


def read_existing(dataset: int | str, plans_name: str) -> dict[str, Any] | None:
    """A plans file that this command wrote earlier, or ``None``.

    Raises:
        InputError: another program wrote the file.
    """
    path = dataset_folder(dataset) / f"{plans_name}.json"
    if not path.exists():
        return None
    plans = _read(path, "")
    if OWN_KEY not in plans:
        raise InputError(f"{path} exists and was not written by this command: give another name with --variants")
    check_format(plans[OWN_KEY], path, FORMAT)
    return plans


def lineage(plans: dict[str, Any], configuration: str) -> list[str]:
    """A configuration and its ancestors, nearest first.

    Raises:
        InputError: one of them is not in the plans.
    """
    there = plans["configurations"]
    if configuration not in there:
        raise InputError(f"no configuration {configuration} in {plans['plans_name']}: it has {', '.join(there)}")
    names = [configuration]
    while (parent := there[names[-1]].get("inherits_from")) is not None:
        if not isinstance(parent, str) or parent in names or parent not in there:
            raise InputError(
                f"configuration {configuration} of {plans['plans_name']} inherits from {parent}: not usable"
            )
        names.append(parent)
    return names


def resolve(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with all inherited entries, as nnU-Net reads it.

    Raises:
        InputError: it is not in the plans, or lacks what every configuration has.
    """
    resolved: dict[str, Any] = {}
    for name in reversed(lineage(plans, configuration)):
        resolved.update(plans["configurations"][name])
    resolved.pop("inherits_from", None)
    if "architecture" not in resolved:
        raise InputError(f"{plans['plans_name']} are plans of nnU-Net before 2.4: plan this data set again")
    check_configuration(resolved, f"configuration {configuration} of {plans['plans_name']}")
    return resolved


def check_configuration(configuration: Mapping[str, Any], where: str) -> None:
    """Check the entries that we read of a configuration, for which nnU-Net itself has no message.

    Args:
        configuration: A configuration with all inherited entries.
        where: Its name and its plans, for the message.

    Raises:
        InputError: an entry is missing or has another type, or the patch is not as the spacing.
    """
    check_entries(configuration, where, _CONFIGURATION_ENTRIES, _ADVICE)
    check_parts(configuration["architecture"], where)
    patch, axes = configuration["patch_size"], len(configuration["spacing"])
    if axes not in (2, 3) or len(patch) != axes or not all(isinstance(each, int) and each > 0 for each in patch):
        raise InputError(
            f"{where} has the patch_size {patch} and the spacing {configuration['spacing']}, and not a positive number "
            f"for each of two or three axes: {_ADVICE}"
        )


def merge(existing: dict[str, Any], new: dict[str, Any], configurations: Iterable[str]) -> dict[str, Any]:
    """``existing`` with the configurations of ``new`` that it lacks.

    Args:
        existing: Plans that this command wrote earlier.
        new: Plans with further configurations.
        configurations: Requested configurations of ``new``; they and their ancestors must be the same in both.

    Raises:
        InputError: the two were made from different plans, or a requested configuration would change.
    """
    name, base = existing["plans_name"], new[OWN_KEY]["base_plans"]
    made_from = existing[OWN_KEY].get("base_plans")
    if made_from != base:
        raise InputError(
            f"{name} holds variants of {made_from}, and variants of {base} are requested: give another name for the "
            "plans to write with --variants"
        )
    have = existing["configurations"]
    needed = dict.fromkeys(each for configuration in configurations for each in lineage(new, configuration))
    shared = new.keys() - {"configurations", OWN_KEY}
    problems = [f"{key} is different" for key in new if key in shared and new[key] != existing.get(key)]
    problems += [
        f"configuration {each} is different"
        for each in needed
        if each in have and have[each] != new["configurations"][each]
    ]
    if problems:
        raise InputError(
            f"{name} exists already, and is not what {base} and these options give: give another name for the plans to "
            "write with --variants, or replace the whole file with `nnunetv2_xattnres plan ... --overwrite`",
            problems,
        )
    added = {each: content for each, content in new["configurations"].items() if each not in have}
    return {**existing, "configurations": {**have, **added}}


def check_builds(plans: dict[str, Any], dataset_json: dict[str, Any], configurations: Sequence[str]) -> None:
    """Build each configuration's network as nnU-Net does, but without memory for its weights.

    Raises:
        InputError: a network cannot be built; the message has a line per configuration.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    try:
        labels = manager.get_label_manager(dataset_json)
    except Exception as error:  # nnU-Net has no message for a label manager that it does not find
        raise InputError(
            f"{plans['plans_name']} with the label_manager {plans.get('label_manager')} cannot be used for the "
            f"labels in {DATASET_JSON} ({error}): repair one of them, or plan again"
        ) from error
    problems = []
    for name in configurations:
        configuration = manager.get_configuration(name)
        try:
            check_architecture(configuration.configuration["architecture"], f"{plans['plans_name']}, {name}")
            channels = determine_num_input_channels(manager, configuration, dataset_json)
            with torch.device("meta"):
                nnUNetTrainer.build_network_architecture(
                    manager, configuration, channels, labels.num_segmentation_heads, True
                )
        except InputError as error:
            problems.append(str(error))
        except Exception as error:  # the user reads every error of a network's constructor
            problems.append(f"{name}: {type(error).__name__}: {error}")
    if problems:
        raise InputError("these configurations do not build, so nothing was written", problems)


def save_plans(dataset: int | str, plans: dict[str, Any]) -> Path:
    """Write the plans under their name, completely or not at all, also if two processes do this; returns the file.

    Raises:
        InputError: the file cannot be written.
    """
    path = dataset_folder(dataset) / f"{plans['plans_name']}.json"
    with written(path) as partial:
        partial.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    return path


def not_preprocessed(
    dataset: int | str, plans: dict[str, Any], configurations: Iterable[str], base_plans: str
) -> list[str]:
    """A line per kind of data that these variants of ``base_plans`` lack, with the command that makes it."""
    folder = dataset_folder(dataset)
    command = f"nnUNetv2_preprocess -d {dataset_number(folder.name)} -plans_name {base_plans} -c"
    # the parent has the same name in the base plans
    parents = {resolve(plans, name)["data_identifier"]: lineage(plans, name)[:2][-1] for name in configurations}
    return [
        f"Not preprocessed yet ({identifier}): {command} {parent}"
        for identifier, parent in parents.items()
        if not (folder / identifier).is_dir()
    ]
