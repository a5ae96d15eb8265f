"""All that a program has to know beside the network, as ``export.json``."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.export.program import BATCH, IMAGE, LOGITS
from nnunetv2_xattnres.system import version_of

FORMAT = 1
# of nnU-Net's tiles; its functions have them as arguments, and the plans do not
GAUSSIAN_SIGMA, GAUSSIAN_MAXIMUM = 1 / 8, 10
# what predict_onnx.py does
NORMALISATIONS = {
    "ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization",
}  # fmt: skip
PREPROCESSOR, LABEL_MANAGER = "DefaultPreprocessor", "LabelManager"


def describe(predictor: Any, *, fold: str, checkpoint: str, opset: int, any_batch: bool) -> dict[str, Any]:
    """The content of ``export.json`` for an initialised ``nnUNetPredictor``; ``docs/export.md`` explains it.

    Axes are those after ``transpose_forward``. Spacings are in mm, sizes in pixels or voxels.
    """
    plans, configuration, labels = predictor.plans_manager, predictor.configuration_manager, predictor.label_manager
    patch = [int(length) for length in configuration.patch_size]
    channels = channels_of(predictor)
    batch = BATCH if any_batch else 1
    return {
        "format": FORMAT,
        "versions": {
            "nnunetv2_xattnres": __version__,
            **{name: version_of(name) for name in ("nnunetv2", "torch", "onnx", "onnxscript")},
            "opset": opset,
        },
        "model": {
            "dataset": plans.dataset_name,
            "plans": plans.plans_name,
            "configuration": predictor_configuration(predictor),
            "trainer": predictor.trainer_name,
            "fold": fold,
            "checkpoint": checkpoint,
            "network": configuration.network_arch_class_name,
        },
        "input": {
            "name": IMAGE,
            "shape": [batch, len(channels), *patch],
            "dynamic_axes": [0] * any_batch,
            "type": "float32",
        },
        "output": {"name": LOGITS, "shape": [batch, labels.num_segmentation_heads, *patch], "type": "float32"},
        "channels": channels,
        "axes": {
            "reader": plans.plans["image_reader_writer"],
            "file_ending": predictor.dataset_json["file_ending"],
            "transpose_forward": list(plans.transpose_forward),
            "transpose_backward": list(plans.transpose_backward),
        },
        "crop_to_nonzero": True,
        "spacing": [float(each) for each in configuration.spacing],
        "resampling": {
            name: {"function": configuration.configuration[name], **configuration.configuration[f"{name}_kwargs"]}
            for name in ("resampling_fn_data", "resampling_fn_probabilities")
        },
        "tiles": {
            "size": patch,
            "pad_smaller_images_to": patch,
            "padding": "zeros after normalisation, the image centred",
            "step": predictor.tile_step_size,
            "gaussian": {"maximum": GAUSSIAN_MAXIMUM, "type": "float16", "axes": [gaussian_line(n) for n in patch]},
        },
        "mirroring_axes": list(predictor.allowed_mirroring_axes or ()),
        "nonlinearity": "sigmoid" if labels.has_regions else "softmax",
        "labels": predictor.dataset_json["labels"],
        "regions": [region if isinstance(region, int) else list(region) for region in labels.foreground_regions]
        if labels.has_regions
        else None,
        "regions_class_order": labels.regions_class_order if labels.has_regions else None,
        "ignore_label": labels.ignore_label,
        "label_type": "uint8" if len(labels.foreground_labels) < 255 else "uint16",
        "script_lacks": what_the_script_lacks(predictor),
    }


def gaussian_line(length: int) -> list[float]:
    """The weights along one axis of a tile; the product over all axes, scaled and rounded, is the weight of a pixel."""
    point = np.zeros(length)
    point[length // 2] = 1
    return gaussian_filter1d(point, length * GAUSSIAN_SIGMA, mode="constant").tolist()


def channels_of(predictor: Any) -> list[dict[str, Any]]:
    """Name and normalisation of each channel, in the order of the input."""
    configuration = predictor.configuration_manager
    names = predictor.dataset_json.get("channel_names") or predictor.dataset_json["modality"]
    intensities = predictor.plans_manager.foreground_intensity_properties_per_channel
    return [
        {
            "name": names[str(number)],
            "normalisation": scheme,
            "use_mask": bool(configuration.use_mask_for_norm[number]),
            "intensity_properties": intensities.get(str(number), {}),
        }
        for number, scheme in enumerate(configuration.normalization_schemes)
    ]


def predictor_configuration(predictor: Any) -> str:
    """The name of the configuration, which a predictor does not keep."""
    plans = predictor.plans_manager
    wanted = predictor.configuration_manager.configuration
    return next(name for name in plans.plans["configurations"] if plans.get_configuration(name).configuration == wanted)


def what_the_script_lacks(predictor: Any) -> list[str]:
    """One line for each part of the plans that ``predict_onnx.py`` does not have: parts that are not nnU-Net's."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    unknown = sorted(set(configuration.normalization_schemes) - NORMALISATIONS)
    lines = [f"the normalisation {name}" for name in unknown]
    if (preprocessor := configuration.preprocessor_name) != PREPROCESSOR:
        lines.append(f"the preprocessor {preprocessor}")
    if (manager := plans.plans.get("label_manager", LABEL_MANAGER)) != LABEL_MANAGER:
        lines.append(f"the label manager {manager}")
    return lines
