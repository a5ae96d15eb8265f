"""The networks of the benchmark: without XAttnRes (base), with our form, and with the paper's literal equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Case(NamedTuple):
    """A network and its input shape."""

    network: str
    shape: tuple[int, ...]
    text: str
    stages: int = 6  # of a U-Net
    first_step: tuple[int, ...] | None = None  # of a U-Net: the first strides that are not 1
    encoder: str = "pvt_v2_b0"  # of EMCAD
    width: int = 32  # channels of a U-Net's first stage


CASES: dict[str, Case] = {
    "unet-2d": Case("unet", (2, 3, 256, 256), "nnU-Net 2D, 6 stages from 32 channels"),
    "paper-unet": Case("paper-unet", (4, 3, 256, 256), "the paper's U-Net"),
    "unet-3d": Case("unet", (1, 1, 64, 64, 64), "nnU-Net 3D, 4 stages, anisotropic first step", 4, (1, 2, 2)),
    "emcad-b0": Case("emcad", (2, 3, 256, 256), "EMCAD, PVTv2-B0"),
    "clinicdb-2d": Case("unet", (25, 3, 320, 384), "nnU-Net's default ClinicDB plan, 7 stages", 7),
    "volume-3d": Case("unet", (2, 1, 128, 128, 128), "nnU-Net 3D, 6 stages from 32 channels"),
    "emcad-b2": Case("emcad", (16, 3, 352, 352), "EMCAD, PVTv2-B2", encoder="pvt_v2_b2"),
}
# the last three need a GPU's memory; on a CPU they only run if they are named
CASE_NAMES = tuple(CASES)
CPU_CASES = ("unet-2d", "paper-unet", "unet-3d", "emcad-b0")
# form: name of its variant
ROUTINGS = {"base": "baseline", "ours": "both"}


def unet_arguments(
    dims: int, stages: int, width: int = 32, first_step: Sequence[int] | None = None, inputs: int = 3
) -> dict[str, Any]:
    """Constructor arguments of nnU-Net's plain U-Net as its planner would write them."""
    strides = [[1] * dims, *([2] * dims for _ in range(stages - 1))]
    if first_step:
        strides[1] = list(first_step)
    return {
        **unet_blocks(dims, stages, width),
        "input_channels": inputs,
        "kernel_sizes": 3,
        "strides": strides,
        "num_classes": 2,
        "n_conv_per_stage": 2,
        "n_conv_per_stage_decoder": 2,
        "deep_supervision": True,
    }


def unet_blocks(dims: int, stages: int, width: int = 32) -> dict[str, Any]:
    """The part of such arguments that is the same for every patch: channels and the layers of a block."""
    from torch import nn

    return {
        "n_stages": stages,
        "features_per_stage": [min(width * 2**stage, 512 if dims == 2 else 320) for stage in range(stages)],
        "conv_op": nn.Conv2d if dims == 2 else nn.Conv3d,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def build(case: str | Case, routing: str) -> nn.Module:
    """The network of a case or of a case's name; ``routing`` is the name of a variant.

    ``baseline`` of the U-Net is nnU-Net's own class.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    from nnunetv2_xattnres.architectures import EMCADNet, PaperUNet, XAttnResUNet
    from nnunetv2_xattnres.catalogue import VARIANTS

    values = VARIANTS[routing].routing
    case = CASES[case] if isinstance(case, str) else case
    if case.network == "paper-unet":
        return PaperUNet(3, 1, routing=values)
    if case.network == "emcad":
        return EMCADNet(3, 1, encoder=case.encoder, routing=values, deep_supervision=True)
    dims = len(case.shape) - 2
    arguments = unet_arguments(dims, case.stages, case.width, first_step=case.first_step, inputs=case.shape[1])
    if routing == "baseline":
        return PlainConvUNet(**arguments)
    return XAttnResUNet(**arguments, routing=values)
