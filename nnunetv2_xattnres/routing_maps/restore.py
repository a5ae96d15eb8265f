"""From nnU-Net's preprocessed image back to the image as it was read: resampling, crop and axes are reverted."""

from __future__ import annotations

from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from torch import Tensor

from nnunetv2_xattnres.errors import InputError

TOLERANCE = 1e-3


def restore(channel: Tensor, predictor: Any, properties: dict[str, Any], outside: float) -> np.ndarray:
    """One map, as it is after preprocessing, in the geometry of the image.

    Args:
        channel: ``S``, three axes, as after preprocessing.
        predictor: An initialised ``nnUNetPredictor``.
        properties: What nnU-Net's preprocessor says about the case.
        outside: The value outside nnU-Net's crop, where nothing is known.

    Returns:
        float32, three axes in the order in which nnU-Net's reader gives them.
    """
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    cropped = properties["shape_after_cropping_and_before_resampling"]
    flat = len(cropped) - len(configuration.spacing)  # a 2D configuration leaves the slices where they are
    current = [*spacing[:flat], *configuration.spacing]
    resampled = configuration.resampling_fn_probabilities(channel.numpy()[None], cropped, current, spacing)
    whole = np.full(properties["shape_before_cropping"], outside, dtype=np.float32)
    whole[bounding_box_to_slice(properties["bbox_used_for_cropping"])] = np.asarray(resampled)[0]
    return np.ascontiguousarray(whole.transpose(plans.transpose_backward))


def known(predictor: Any, properties: dict[str, Any]) -> np.ndarray:
    """Boolean, in the geometry of the image: where nnU-Net's crop lies."""
    plans = predictor.plans_manager
    whole = np.zeros(properties["shape_before_cropping"], dtype=bool)
    whole[bounding_box_to_slice(properties["bbox_used_for_cropping"])] = True
    return np.ascontiguousarray(whole.transpose(plans.transpose_backward))


def check_sum(total: np.ndarray, stage: str) -> None:
    """See that restored weights still add up to 1, as they do after nnU-Net's linear resampling.

    Raises:
        InputError: they do not.
    """
    error = float(np.abs(total - 1).max())
    if error > TOLERANCE:
        raise InputError(
            f"The restored weights of {stage} add up to 1 only within {error:.2g}: the plans resample probabilities in "
            "a way that does not keep sums. Use plans whose resampling_fn_probabilities_kwargs have order 1."
        )
