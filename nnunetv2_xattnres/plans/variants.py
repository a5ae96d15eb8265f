"""What a configuration of the ablation names: a network and a variant of its routing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from nnunetv2_xattnres.errors import InputError

PACKAGE = "nnunetv2_xattnres.architectures"
NETWORKS = ("unet", "resenc", "emcad", "paper-unet")

# Table 5 next to Tables 3 and 4: these start `both` from another query than zero
INITS = {"init_random": "random", "init_kaiming": "kaiming_uniform", "init_xavier": "xavier_uniform"}

# EMCAD's encoder comes pretrained and has no XAttnRes: these two would repeat `noskip` and `replace`
_ENCODER_POSITIONS = ("encoder", "decoder")

# classes of an existing plan (by their last name) that a network of ours replaces
_STOCK_CLASSES = {
    "PlainConvUNet": "unet",
    "XAttnResUNet": "unet",
    "ResidualEncoderUNet": "resenc",
    "XAttnResResidualEncoderUNet": "resenc",
}
_OUR_CLASSES = {
    "unet": "XAttnResUNet",
    "resenc": "XAttnResResidualEncoderUNet",
    "emcad": "EMCADNet",
    "paper-unet": "PaperUNet",
}


def routing_of(variant: str) -> dict[str, Any]:
    """The ``routing`` of a variant: a name of ``architectures.routing.VARIANTS``, or a key of :data:`INITS`."""
    from nnunetv2_xattnres.architectures.routing import VARIANTS  # imports torch: not needed to list the names

    if variant in INITS:
        return {**VARIANTS["both"], "query_init": INITS[variant]}
    return dict(VARIANTS[variant])


def network_of(configuration: dict[str, Any]) -> str | None:
    """``unet`` or ``resenc`` if the (resolved) configuration names one of nnU-Net's two U-Nets, else ``None``."""
    return _STOCK_CLASSES.get(configuration["architecture"]["network_class_name"].rsplit(".", 1)[-1])


def class_of(network: str) -> str:
    """The class that a configuration of that network names."""
    return f"{PACKAGE}.{_OUR_CLASSES[network]}"


def dimensions(configuration: dict[str, Any]) -> int:
    """2 or 3."""
    return len(configuration["patch_size"])


def exists_in(network: str, dims: int) -> bool:
    """Whether the network exists for 2D or 3D data: EMCAD and the paper's U-Net are 2D."""
    return network in ("unet", "resenc") or dims == 2


def has_variant(network: str, variant: str) -> bool:
    """Whether the variant is one of its own in this network."""
    return not (network == "emcad" and variant in _ENCODER_POSITIONS)


def configuration_name(parent: str, network: str, variant: str) -> str:
    """``2d_both``, ``2d_emcad_both``, ``2d_paper_unet_both``: nnU-Net's own networks go without a name."""
    middle = "" if network in ("unet", "resenc") else f"{network.replace('-', '_')}_"
    return f"{parent}_{middle}{variant}"


def architecture(
    network: str,
    variant: str,
    parent: dict[str, Any],
    *,
    encoder: str = "pvt_v2_b2",
    encoder_weights: str | None = "imagenet",
    input_size: list[int] | None = None,
) -> dict[str, Any]:
    """The ``architecture`` entry of a configuration.

    Args:
        network: One of :data:`NETWORKS`.
        variant: See :func:`routing_of`.
        parent: The resolved configuration that the variant inherits from.
        encoder: EMCAD's encoder, ``pvt_v2_b0`` to ``pvt_v2_b5``.
        encoder_weights: What ``nnUNetTrainer_EMCAD`` loads: ``imagenet``, a file, or ``None``.
        input_size: Size to which EMCAD and the paper's U-Net resize their input, or ``None``.

    Raises:
        InputError: the parent is not of the network that is asked for.
    """
    name = class_of(network)
    routing = routing_of(variant)
    if network in ("unet", "resenc"):
        found = network_of(parent)
        if found != network:
            planner = "nnUNetPlannerResEncM" if network == "resenc" else "ExperimentPlanner"
            raise InputError(
                f"--network {network} needs plans with that network, and these name "
                f"{parent['architecture']['network_class_name']}: plan with `nnUNetv2_plan_experiment -pl {planner}` "
                "and give the name of those plans with -p"
            )
        entry = deepcopy(parent["architecture"])
        entry["network_class_name"] = name
        entry["arch_kwargs"]["routing"] = routing
        return entry
    # all-ones strides: nnU-Net gives one full-resolution target for each entry but the last
    kwargs: dict[str, Any] = {"routing": routing, "input_size": input_size}
    if network == "emcad":
        scaled = parent["normalization_schemes"]
        rgb = len(scaled) == 3 and set(scaled) == {"RGBTo01Normalization"}
        kwargs = {
            "encoder": encoder,
            "encoder_weights": encoder_weights,
            "input_normalization": "imagenet" if rgb else None,
            **kwargs,
            "strides": [[1, 1]] * 5,
        }
    else:
        kwargs["strides"] = [[1, 1]] * 3
    return {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": []}
