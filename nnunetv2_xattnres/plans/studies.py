"""The paper's ablations as configurations of a plans file."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.files import (
    check_builds,
    merge,
    read_dataset_json,
    read_existing,
    read_plans,
    resolve,
    save_plans,
)
from nnunetv2_xattnres.plans.variants import (
    NETWORKS,
    architecture,
    configuration_name,
    dimensions,
    exists_in,
    has_variant,
    network_of,
)

# study: the variants that it compares
STUDIES: dict[str, list[str]] = {
    "skip": ["baseline", "noskip", "replace", "both"],  # Table 3
    "position": ["noskip", "encoder", "decoder", "replace"],  # Table 4
    "init": ["both", "init_random", "init_kaiming", "init_xavier"],  # Table 5; `both` starts from zero
    "backbone": ["baseline", "noskip", "replace", "both"],  # Table 3, on EMCAD and the paper's U-Net as well
}
BACKBONES = ("emcad", "paper-unet")

Cell = dict[str, Any]


def cells(parent_name: str, parent: dict[str, Any], network: str | None, studies: Sequence[str]) -> dict[str, Cell]:
    """The configurations of the studies.

    Args:
        parent_name: Name of the configuration that the variants inherit from.
        parent: That configuration, resolved.
        network: One of ``NETWORKS``; ``None`` for the one in the parent.
        studies: Keys of :data:`STUDIES`, or ``all``.

    Returns:
        Name of the configuration to ``{"variant", "network", "studies"}``, in the order of the studies.

    Raises:
        InputError: unknown names, a network without a 3D form for a 3D parent, or nothing left to compare.
    """
    studies = list(STUDIES) if "all" in studies else studies
    unknown = [study for study in studies if study not in STUDIES]
    if unknown:
        raise InputError(f"unknown study {', '.join(unknown)}: the studies are {', '.join(STUDIES)}")
    dims = dimensions(parent)
    network = network or network_of(parent)
    if network is None:
        raise InputError(
            f"the configuration {parent_name} names {parent['architecture']['network_class_name']}, which has no "
            "XAttnRes form here: give plans of nnU-Net's PlainConvUNet or ResidualEncoderUNet, or --network "
            "emcad or paper-unet, which do not depend on the network in the plans"
        )
    if network not in NETWORKS:
        raise InputError(f"unknown network {network}: the networks are {', '.join(NETWORKS)}")
    if not exists_in(network, dims):
        raise InputError(f"{network} is a 2D network and {parent_name} is {dims}D: choose -c 2d or another --network")
    found: dict[str, Cell] = {}
    for study in studies:
        networks = [network]
        if study == "backbone":
            networks += [other for other in BACKBONES if other != network and exists_in(other, dims)]
        for name in networks:
            for variant in STUDIES[study]:
                if has_variant(name, variant):
                    key = configuration_name(parent_name, name, variant)
                    cell = found.setdefault(key, {"variant": variant, "network": name, "studies": []})
                    cell["studies"].append(study)
    return found


def write_plans(
    dataset: int | str,
    configuration: str | Sequence[str] = "2d",
    base_plans: str = "nnUNetPlans",
    output_plans: str = "nnUNetXAttnResPlans",
    network: str | None = None,
    studies: Sequence[str] = tuple(STUDIES),
    *,
    encoder: str = "pvt_v2_b2",
    encoder_weights: str | None = "imagenet",
    input_size: Sequence[int] | None = None,
    overwrite: bool = False,
) -> dict[str, Cell]:
    """Write ``output_plans.json`` beside ``base_plans.json`` in nnU-Net's preprocessed folder.

    Every variant inherits from ``configuration``, so it uses the same preprocessed data, and repeats the whole
    ``architecture`` (nnU-Net merges only top-level keys). Each network is built once before anything is written. To
    plans that this function wrote before it adds; a configuration in them that would change is an error.

    Args:
        dataset: Number or name of the data set.
        configuration: The parent, or several of them.
        base_plans: Name of the plans that have it; they stay as they are.
        output_plans: Name of the plans to write.
        network: ``unet``, ``resenc``, ``emcad`` or ``paper-unet``; ``None`` takes the one in the parent.
        studies: Keys of :data:`STUDIES`, or ``all``.
        encoder: EMCAD's encoder.
        encoder_weights: What ``nnUNetTrainer_EMCAD`` loads into it: ``imagenet``, a file, or ``None``.
        input_size: Fixed input size of EMCAD and the paper's U-Net.
        overwrite: Replace an existing ``output_plans.json`` as a whole.

    Returns:
        Name of each configuration asked for to ``{"variant", "network", "studies"}``.

    Raises:
        InputError: something is missing, does not fit, does not build, or would be overwritten.
    """
    if output_plans == base_plans:
        raise InputError(f"the plans to write have the name of the plans to read, {base_plans}: give another with -o")
    base = read_plans(dataset, base_plans)
    dataset_json = read_dataset_json(dataset)
    parents = [configuration] if isinstance(configuration, str) else list(configuration)
    plans = deepcopy(base)
    plans["plans_name"] = output_plans
    plans["xattnres"] = {"base_plans": base_plans}
    found: dict[str, Cell] = {}
    for parent_name in parents:
        parent = resolve(base, parent_name)
        for name, cell in cells(parent_name, parent, network, studies).items():
            found[name] = cell
            plans["configurations"][name] = {
                "inherits_from": parent_name,
                "architecture": architecture(
                    cell["network"],
                    cell["variant"],
                    parent,
                    encoder=encoder,
                    encoder_weights=encoder_weights,
                    input_size=None if input_size is None else list(input_size),
                ),
            }
    existing = None if overwrite else read_existing(dataset, output_plans)
    if existing is not None:
        plans = merge(existing, plans)
    if plans != existing:
        check_builds(plans, dataset_json, list(found))
        save_plans(dataset, plans)
    return found
