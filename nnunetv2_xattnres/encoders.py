"""The pretrained encoders that networks can have: every fact about them, once. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PVT = tuple(f"pvt_v2_b{size}" for size in range(6))
RES2NET_50, RES2NET_101 = "res2net50d", "res2net101d"
RESNET = "resnet50"
SWIN = "swin_tiny_patch4_window7_224"
R50_VIT = "vit_base_r50_s16_224"

_NONE: Mapping[str, Any] = MappingProxyType({})

OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    **dict.fromkeys(PVT, _NONE),
    RES2NET_50: {"out_indices": (1, 2, 3, 4)},
    RES2NET_101: {"out_indices": (1, 2, 3, 4)},
    RESNET: {"out_indices": (1, 4), "output_stride": 16},
    # the third stage has two of its six blocks; windows are padded where they do not divide the map
    SWIN: {"depths": (2, 2, 2, 2), "strict_img_size": False},
    # as in TransUNet: no class token, and dropout. timm's is after the projection of the attention as well
    R50_VIT: {"class_token": False, "global_pool": "", "num_classes": 0, "pos_drop_rate": 0.1, "proj_drop_rate": 0.1},
})  # fmt: skip
"""Name of each encoder in timm to the options that it is built with."""
