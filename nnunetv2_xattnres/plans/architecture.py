"""Puts XAttnRes into the architecture of a stock plans file."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_xattnres.catalogue import NETWORKS
from nnunetv2_xattnres.errors import InputError

ARCHITECTURES = "nnunetv2_xattnres.architectures"


def is_ours(architecture: dict[str, Any]) -> bool:
    """Whether an ``architecture`` of a plans file names a network of this package."""
    return architecture["network_class_name"].startswith(f"{ARCHITECTURES}.")


def architecture_of(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """A copy of the ``architecture`` of a configuration, which may inherit it."""
    plans = {key: value for key, value in plans.items() if key != "continue_training"}
    return deepcopy(PlansManager(plans).get_configuration(configuration).configuration["architecture"])


def with_routing(architecture: dict[str, Any], routing: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy of a stock ``architecture`` (plain or residual-encoder U-Net) with XAttnRes.

    Args:
        architecture: ``network_class_name``, ``arch_kwargs``, ``_kw_requires_import``.
        routing: See :class:`~nnunetv2_xattnres.architectures.routing.Routing`.
        where: Names of its plans and configuration, for the error message.

    Raises:
        InputError: the network is neither of the two.
    """
    name = architecture["network_class_name"]
    routed_classes = {network.stock: network.class_name for network in NETWORKS.values() if network.stock}
    if name not in routed_classes:
        raise InputError(
            f"{where} names the network {name}: XAttnRes can be put into {' and '.join(routed_classes)} only. "
            "Train with a plans file that names one of these (nnUNetv2_plan_experiment writes one), "
            "or with this plans file and nnU-Net's own trainer."
        )
    routed = deepcopy(architecture)
    routed["network_class_name"] = routed_classes[name]
    routed["arch_kwargs"]["routing"] = dict(routing)
    return routed
