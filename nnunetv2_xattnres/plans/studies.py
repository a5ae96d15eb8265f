"""The paper's ablations as configurations of a plans file."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnunetv2_xattnres.catalogue import NETWORKS, STUDIES
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.files import (
    FORMAT,
    OWN_KEY,
    VARIANT_PLANS,
    check_builds,
    check_name,
    merge,
    read_dataset_json,
    read_existing,
    read_plans,
    resolve,
    save_plans,
)
from nnunetv2_xattnres.plans.variants import architecture, check_options, configuration_name, dimensions, network_of

Cell = dict[str, Any]


ALL = "all"


def cells(
    parent_name: str, parent: dict[str, Any], networks: Sequence[str] | None, studies: Sequence[str]
) -> dict[str, Cell]:
    """The configurations of the studies.

    Args:
        parent_name: Name of the configuration that the variants inherit from.
        parent: That configuration, resolved.
        networks: Keys of ``NETWORKS``, or ``all``; ``None`` for the one in the parent.
        studies: Keys of :data:`STUDIES`, or ``all`` for the paper's that compare variants. A study that is named
            brings the networks that it compares with; one that compares a list of networks is restricted to
            ``networks``.

    Returns:
        Name of the configuration to ``{"variant", "network", "studies"}``, in the order of the studies.

    Raises:
        InputError: a name is unknown, the network has no 3D form for a 3D parent, or nothing is left to compare.
    """
    named = ALL not in studies
    studies = (
        list(studies) if named else [key for key, study in STUDIES.items() if study.paper_tables and not study.cells]
    )
    unknown = [study for study in studies if study not in STUDIES]
    if unknown:
        raise InputError(f"unknown study {', '.join(unknown)}: the studies are {', '.join(STUDIES)}")
    dims = dimensions(parent)
    chosen = None if networks is None else _chosen(networks, parent_name, parent)
    found: dict[str, Cell] = {}
    for key in studies:
        study = STUDIES[key]
        if study.cells:
            asked = [cell for cell in study.cells if chosen is None or cell[0] in chosen]
            pairs = [(name, variant) for name, variant in asked if dims in NETWORKS[name].dimensions]
        else:
            own = chosen or [_own_network(parent_name, parent)]
            others = [name for name in study.networks if name not in own and dims in NETWORKS[name].dimensions]
            compared = [*own, *others] if named or networks is None else own
            pairs = [(name, variant) for name in compared for variant in study.variants]
        for name, variant in pairs:
            if variant in NETWORKS[name].variants:
                configuration = configuration_name(parent_name, name, variant)
                cell = found.setdefault(configuration, {"variant": variant, "network": name, "studies": []})
                cell["studies"].append(key)
    if not found:
        raise InputError(
            f"nothing to compare: {', '.join(studies)} has no variant of {', '.join(chosen or [])} in {dims}D"
        )
    return found


def _own_network(parent_name: str, parent: dict[str, Any]) -> str:
    """The network that the parent names."""
    extended = network_of(parent)
    if extended is None:
        named = " or ".join(key for key, each in NETWORKS.items() if not each.stock)
        raise InputError(
            f"the configuration {parent_name} names {parent['architecture']['network_class_name']}, which has no "
            "XAttnRes form here: give plans of nnU-Net's PlainConvUNet or ResidualEncoderUNet, or --network "
            f"{named}, which do not depend on the network in the plans"
        )
    return extended.key


def _chosen(networks: Sequence[str], parent_name: str, parent: dict[str, Any]) -> list[str]:
    """The networks asked for; of ``all``, those that go with the parent."""
    dims, own = dimensions(parent), network_of(parent)
    if ALL in networks:
        return [key for key, each in NETWORKS.items() if dims in each.dimensions and (not each.stock or each is own)]
    for network in networks:
        if network not in NETWORKS:
            raise InputError(f"unknown network {network}: the networks are {', '.join(NETWORKS)}")
        if dims not in NETWORKS[network].dimensions:
            raise InputError(
                f"{network} is a 2D network and {parent_name} is {dims}D: choose -c 2d or another --network"
            )
    return list(dict.fromkeys(networks))


@dataclass(frozen=True)
class Variants:
    """Checked plans with the variants, which are not written yet.

    Args:
        dataset: Number or name of the data set.
        found: Name of each requested configuration to ``{"variant", "network", "studies"}``.
        plans: New content of the plans file, its present configurations included.
        changed: Whether the file must be written.
    """

    dataset: int | str
    found: dict[str, Cell]
    plans: dict[str, Any]
    changed: bool

    def write(self) -> None:
        """Write the plans file if it changes."""
        if self.changed:
            save_plans(self.dataset, self.plans)


def make_variants(
    dataset: int | str,
    configuration: str | Sequence[str] = "2d",
    base_plans: str = "nnUNetPlans",
    output_plans: str = VARIANT_PLANS,
    networks: Sequence[str] | None = None,
    studies: Sequence[str] = (ALL,),
    *,
    encoder: str | None = None,
    encoder_weights: str | None = "imagenet",
    input_size: Sequence[int] | None = None,
    keep: bool = False,
    overwrite: bool = False,
) -> Variants:
    """The content of ``output_plans.json``, which belongs beside ``base_plans.json`` in nnU-Net's folder.

    Every variant inherits from ``configuration``, so it uses the same preprocessed data. It repeats the complete
    ``architecture``, because nnU-Net merges only top-level keys. Each new network is built once. Existing plans are
    extended; it is an error if a requested variant would change in them, or if they have other base plans.

    Args:
        dataset: Number or name of the data set.
        configuration: The parent configuration, or several.
        base_plans: Name of the plans with these configurations; they stay unchanged.
        output_plans: Name of the plans to write.
        networks, studies: See :func:`cells`.
        encoder, encoder_weights, input_size: See :func:`~nnunetv2_xattnres.plans.variants.architecture`.
        keep: Use the variants of ``output_plans.json`` as they are, also if other options wrote them.
        overwrite: Replace an existing ``output_plans.json`` as a whole.

    Raises:
        InputError: something is missing, does not fit, cannot be built, or would be overwritten.
    """
    if output_plans.casefold() == base_plans.casefold():  # one file on macOS and Windows
        raise InputError(
            f"the plans to write have the name of the plans to read, {base_plans}: give another with --variants"
        )
    check_name(output_plans)
    base = read_plans(dataset, base_plans)
    existing = read_existing(dataset, output_plans)  # --overwrite does not replace other programs' files, either
    if overwrite:
        existing = None
    there = existing["configurations"] if existing is not None else {}
    plans = {**deepcopy(base), "plans_name": output_plans, OWN_KEY: {"format": FORMAT, "base_plans": base_plans}}
    parents = [configuration] if isinstance(configuration, str) else list(configuration)
    regions = _has_regions(read_dataset_json(dataset))
    found: dict[str, Cell] = {}
    made: list[str] = []
    for parent_name in parents:
        parent = resolve(base, parent_name)
        if parent.get("previous_stage"):
            raise InputError(
                f"{parent_name} refines what {parent['previous_stage']} has predicted for it by this name, and "
                "variants have other names: train it with -tr nnUNetTrainer_XAttnRes, or choose another configuration"
            )
        for name, cell in cells(parent_name, parent, networks, studies).items():
            found[name] = cell
            if keep and name in there:
                continue
            made.append(name)
            plans["configurations"][name] = {
                "inherits_from": parent_name,
                "architecture": architecture(
                    cell["network"],
                    cell["variant"],
                    parent,
                    encoder=encoder,
                    encoder_weights=encoder_weights,
                    input_size=None if input_size is None else list(input_size),
                    regions=regions,
                ),
            }
    check_options(list(dict.fromkeys(cell["network"] for cell in found.values())), encoder, encoder_weights, input_size)
    if existing is not None:
        plans = merge(existing, plans, [*parents, *made])
        _check_networks(existing, found)
    if new := [name for name in made if name not in there]:
        check_builds(plans, read_dataset_json(dataset), new)
    _check_encoder_weights(plans, found)
    return Variants(dataset, found, plans, plans != existing)


def _has_regions(dataset_json: dict[str, Any]) -> bool:
    """Whether a label is a list of values, which is how nnU-Net's data sets name a region."""
    return any(isinstance(value, list) and len(value) > 1 for value in dataset_json["labels"].values())


def _check_encoder_weights(plans: dict[str, Any], found: dict[str, Cell]) -> None:
    """Check files of weights now, because the training may start days later, on another machine."""
    pretrained = [name for name, cell in found.items() if NETWORKS[cell["network"]].encoder]
    if not pretrained:
        return
    named = [resolve(plans, name)["architecture"]["arch_kwargs"] for name in pretrained]
    from nnunetv2_xattnres.architectures.encoder_weights import (
        check_encoder_weights,
    )  # imports torch, which takes seconds

    for encoder, weights in dict.fromkeys((each["encoder"], each.get("encoder_weights")) for each in named):
        check_encoder_weights(encoder, weights)


def _check_networks(plans: dict[str, Any], found: dict[str, Cell]) -> None:
    """Check that existing variants are of the same network: U-Net and residual encoder use the same names."""
    problems = []
    for name in found.keys() & plans["configurations"].keys():
        has = resolve(plans, name)["architecture"]["network_class_name"]
        if has != NETWORKS[found[name]["network"]].class_name:
            problems.append(f"configuration {name} has {has}, and {found[name]['network']} is requested")
    if problems:
        raise InputError(
            f"{plans['plans_name']} holds variants of another network: give another name for the plans to write "
            "with --variants",
            sorted(problems),
        )
