"""Finds the network of a configuration, and builds the ``architecture`` of a variant for a plans file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from typing import Any

from nnunetv2_xattnres.catalogue import NETWORKS, VARIANTS, Network
from nnunetv2_xattnres.errors import InputError


def network_of(configuration: dict[str, Any]) -> Network | None:
    """The network whose class, stock or ours, a resolved configuration names, or ``None``."""
    named = configuration["architecture"]["network_class_name"].rsplit(".", 1)[-1]
    for network in NETWORKS.values():
        if network.stock and named in (path.rsplit(".", 1)[-1] for path in (network.stock, network.class_name)):
            return network
    return None


def dimensions(configuration: dict[str, Any]) -> int:
    """The number of dimensions of a configuration, 2 or 3."""
    return len(configuration["patch_size"])


def configuration_name(parent: str, network: str, variant: str) -> str:
    """``2d_both``, ``2d_emcad_both``, ``2d_paper_unet_both``: without a name for nnU-Net's own networks."""
    return f"{parent}_{NETWORKS[network].infix}{variant}"


def check_options(
    networks: Collection[str],
    encoder: str | None,
    encoder_weights: str | None = "imagenet",
    input_size: Sequence[int] | None = None,
) -> None:
    """Check that each option has a network that uses it; networks that cannot use it are then built without it.

    Args:
        networks: Keys of :data:`~nnunetv2_xattnres.catalogue.NETWORKS`.
        encoder, encoder_weights, input_size: See :func:`architecture`. ``None`` and ``imagenet`` need no such network.

    Raises:
        InputError: no network uses an option, or none can have this encoder.
    """
    problems = []
    valid = dict.fromkeys(name for network in networks for name in NETWORKS[network].encoders)
    if encoder is not None and encoder not in valid:
        what = f"the valid names are {', '.join(valid)}" if valid else "no network here has an encoder to choose"
        problems.append(f"--encoder {encoder}: {what}")
    if encoder_weights not in (None, "imagenet") and not valid:
        problems.append(f"--encoder-weights {encoder_weights}: no network here has a pretrained encoder")
    if input_size is not None and all(NETWORKS[network].stock for network in networks):
        problems.append(f"--input-size {' '.join(map(str, input_size))}: no network here resizes its input")
    if problems:
        raise InputError(f"These options cannot be used with {', '.join(networks)}: leave out or change", problems)


def architecture(
    network: str,
    variant: str,
    parent: dict[str, Any],
    *,
    encoder: str | None = None,
    encoder_weights: str | None = "imagenet",
    input_size: list[int] | None = None,
    regions: bool = False,
) -> dict[str, Any]:
    """The ``architecture`` entry of a configuration.

    Args:
        network: Key of :data:`~nnunetv2_xattnres.catalogue.NETWORKS`.
        variant: Key of :data:`~nnunetv2_xattnres.catalogue.VARIANTS`.
        parent: The resolved configuration that the variant inherits from.
        encoder: Pretrained encoder, such as ``pvt_v2_b0``; a network that cannot have it gets its default.
        encoder_weights: What the network's trainer loads into it: ``imagenet``, a file, or ``None``.
        input_size: Size to which a network that extends none of nnU-Net's resizes its input, or ``None``.
        regions: Whether the data set is trained on regions, which may overlap.

    Raises:
        InputError: the parent has another network than the requested one, or no channels per stage.
    """
    asked = NETWORKS[network]
    routing = {"routing": VARIANTS[variant].routing} if asked.places else {}
    if asked.stock:
        if network_of(parent) is not asked:
            raise InputError(
                f"--network {network} needs plans with that network, and these name "
                f"{parent['architecture']['network_class_name']}: plan with `nnUNetv2_plan_experiment -pl "
                f"{asked.planner}` and give the name of those plans with -p"
            )
        entry = deepcopy(parent["architecture"])
        entry["network_class_name"] = asked.class_name
        channels = entry["arch_kwargs"].get("features_per_stage")
        if not isinstance(channels, list) or not all(isinstance(each, int) for each in channels):
            raise InputError(
                f"the plans have the features_per_stage {channels} for {asked.title}, and not a list of numbers: "
                "repair them, or plan again"
            )
        entry["arch_kwargs"].update(routing, features_per_stage=VARIANTS[variant].widen(channels))
        return entry
    kwargs: dict[str, Any] = {}
    if asked.encoder:
        rgb = parent["normalization_schemes"] == ["RGBTo01Normalization"] * 3
        kwargs["encoder"] = encoder if encoder in asked.encoders else asked.encoder
        kwargs["encoder_weights"] = encoder_weights
        kwargs["input_normalization"] = "imagenet" if rgb else None
    if asked.takes_image_size:
        kwargs["image_size"] = input_size or list(parent["patch_size"])
    if asked.takes_regions:
        kwargs["regions"] = regions
    # all-ones strides: nnU-Net gives one full-resolution target for each entry but the last
    strides = [[1] * dimensions(parent) for _ in range(asked.targets + 1)]
    kwargs = {**kwargs, **routing, "input_size": input_size, "strides": strides}
    return {"network_class_name": asked.class_name, "arch_kwargs": kwargs, "_kw_requires_import": []}
