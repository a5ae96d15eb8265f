"""The paper's augmentation: quarter turns and flips, or a small rotation."""

from __future__ import annotations

import math
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_xattnres.trainers.recipe import Recipe


class Either(BasicTransform):
    """Applies at most one of several transforms.

    Args:
        choices: Transforms with their probabilities, which may sum to less than 1.
    """

    def __init__(self, choices: list[tuple[float, BasicTransform]]) -> None:
        super().__init__()
        self.choices = choices

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Choose at random which transform is applied, if any."""
        draw = torch.rand(1).item()
        for probability, transform in self.choices:
            if draw < probability:
                return {"chosen": transform}
            draw -= probability
        return {"chosen": None}

    def apply(self, data_dict: dict, **params: Any) -> dict:
        """Apply the chosen transform."""
        return data_dict if params["chosen"] is None else params["chosen"](**data_dict)


def paper_transforms(
    recipe: Recipe,
    patch_size: tuple[int, int],
    scales: list | None,
    regions: list | None = None,
    ignore_label: int | None = None,
) -> BasicTransform:
    """A random quarter turn and flips for half of the samples, a rotation within ``recipe.rotation`` for a quarter.

    Args:
        recipe: The recipe, which switches each of the two on or off.
        patch_size: Height and width; a patch that is not square gets half turns only.
        scales: nnU-Net's scales for deep supervision, or ``None``.
        regions: nnU-Net's regions, or ``None`` for labels.
        ignore_label: nnU-Net's ignore label.
    """
    choices: list[tuple[float, BasicTransform]] = []
    if recipe.quarter_turns_and_flips:
        turns = (0, 1, 2, 3) if patch_size[0] == patch_size[1] else (0, 2)
        turn = Rot90Transform(num_axis_combinations=1, num_rot_per_combination=turns, allowed_axes={0, 1})
        choices.append((0.5, ComposeTransforms([turn, MirrorTransform(allowed_axes=(0, 1))])))
    if recipe.rotation > 0:
        angle = math.radians(recipe.rotation)
        rotate = SpatialTransform(
            patch_size,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_elastic_deform=0,
            p_rotation=1,
            rotation=(-angle, angle),
            p_scaling=0,
            bg_style_seg_sampling=False,
            border_mode_seg="constant",
            padding_value_seg=-1,
        )
        choices.append((0.25, rotate))
    rest = nnUNetTrainer.get_validation_transforms(scales, regions=regions, ignore_label=ignore_label)
    return ComposeTransforms([Either(choices), rest])
