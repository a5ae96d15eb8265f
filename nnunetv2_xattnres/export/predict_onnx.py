"""Predict labels with onnxruntime and numpy alone: ``python predict_onnx.py IMAGE.npy LABELS.npy [SPACING ...]``.

IMAGE.npy holds ``[channels, *axes]``, axes in the order of nnU-Net's readers: (y, x), or (z, y, x) as in SimpleITK.
The image must have the spacing that export.json names: nothing is resampled. Nothing is mirrored.
"""

import json
import sys
from itertools import product
from math import ceil
from pathlib import Path

import numpy as np
import onnxruntime


def predict(image, spacing=None, folder=Path(__file__).parent):
    """Labels of an image ``[channels, *axes]``; ``spacing`` (mm, in the order of its axes) is checked if given."""
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=onnxruntime.get_available_providers())
    size, axes, channels = about["tiles"]["size"], about["axes"], about["channels"]
    flat = 3 - len(size)  # a 2D network predicts slice by slice
    if about["script_lacks"]:
        raise ValueError(f"this script lacks {', '.join(about['script_lacks'])}, which the model needs")
    if image.ndim not in (3, 4) or len(image) != len(channels):
        raise ValueError(f"the image has shape {image.shape}: [channels, *axes] with {len(channels)} channels is needed")
    x = image.astype(np.float32).reshape(len(image), *(1,) * (4 - image.ndim), *image.shape[1:])
    x = x.transpose(0, *(axis + 1 for axis in axes["transpose_forward"]))
    if spacing is not None:
        spacing = [1.0] * (3 - len(spacing)) + list(spacing)
        spacing = [spacing[axis] for axis in axes["transpose_forward"]][flat:]
        if any(round(a / b * n) != n for a, b, n in zip(spacing, about["spacing"], x.shape[1 + flat :], strict=True)):
            raise ValueError(f"the spacing is {spacing}: resample the image to {about['spacing']} first")

    whole = x.shape[1:]
    mask = (x != 0).any(0)  # nnU-Net crops to what is not zero
    ends = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(each[0], each[-1] + 1) if len(each) else slice(None) for each in ends)
    x, mask = x[(slice(None), *box)], fill_holes(mask[box])
    x = np.stack([normalise(values, mask, how) for values, how in zip(x, channels, strict=True)])

    tile = [1] * flat + size
    missing = [max(want - have, 0) for want, have in zip(tile, x.shape[1:], strict=True)]
    padding = [(each // 2, each - each // 2) for each in missing]
    inside = tuple(slice(low, low + have) for (low, _), have in zip(padding, x.shape[1:], strict=True))
    x = np.pad(x, [(0, 0), *padding])
    weight = gaussian(size, **about["tiles"]["gaussian"])
    # sums of float16, as in nnU-Net
    total = np.zeros((about["output"]["shape"][1], *x.shape[1:]), np.float16)
    weights = np.zeros(x.shape[1:], np.float16)
    steps = [range(x.shape[1])] * flat + [starts(*each, about["tiles"]["step"]) for each in zip(x.shape[1 + flat :], size)]
    for corner in product(*steps):
        at = tuple(slice(start, start + length) for start, length in zip(corner, tile, strict=True))
        (logits,) = session.run(None, {about["input"]["name"]: x[(slice(None), *at)].reshape(1, len(x), *size)})
        total[(slice(None), *at)] += (logits[0] * weight).reshape(-1, *tile)
        weights[at] += weight.reshape(tile)
    logits = (total / weights)[(slice(None), *inside)]

    labels = np.zeros(whole, about["label_type"])
    if about["regions"] is None:
        labels[box] = logits.argmax(0)
    else:  # later regions lie upon earlier ones
        for region, value in zip(logits.astype(np.float32), about["regions_class_order"], strict=True):
            labels[box][1 / (1 + np.exp(-region)) > 0.5] = value
    return labels.transpose(axes["transpose_backward"]).reshape(image.shape[1:])


def normalise(x, mask, how):
    """One channel as nnU-Net's class of that name does it."""
    name, facts = how["normalisation"], how["intensity_properties"]
    if name == "ZScoreNormalization":
        part = x[mask] if how["use_mask"] else x
        scaled = (x - part.mean()) / max(part.std(), 1e-8)
        return np.where(mask, scaled, x) if how["use_mask"] else scaled
    if name == "CTNormalization":
        return (np.clip(x, facts["percentile_00_5"], facts["percentile_99_5"]) - facts["mean"]) / max(facts["std"], 1e-8)
    if name == "RescaleTo01Normalization":
        return (x - x.min()) / max((x - x.min()).max(), 1e-8)
    if name == "RGBTo01Normalization" and (x.min() < 0 or x.max() > 255):
        raise ValueError("the image has values outside 0 to 255, and the model was trained with such of RGB images")
    return x / 255.0 if name == "RGBTo01Normalization" else x


def fill_holes(mask):
    """True also where zeros are enclosed on all sides."""
    outside = np.pad(~mask, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0, 0, 0], before = True, 0
    while before < (before := np.count_nonzero(reached)):
        for axis in range(3):
            for way in (1, -1):
                to, free = np.moveaxis(reached, axis, 0)[::way], np.moveaxis(outside, axis, 0)[::way]
                for i in range(1, len(to)):
                    to[i] |= to[i - 1] & free[i]
    return ~reached[1:-1, 1:-1, 1:-1]


def gaussian(size, sigma, maximum, type):
    """The weight of each pixel of a tile: products of Gaussians that are cut at four sigma."""
    weight = np.ones(())
    for length in size:
        distance = np.arange(length) - length // 2
        radius = int(4 * sigma * length + 0.5)
        line = np.exp(-0.5 / (sigma * length) ** 2 * np.arange(-radius, radius + 1) ** 2).sum()
        line = np.exp(-0.5 / (sigma * length) ** 2 * distance**2) / line * (abs(distance) <= radius)
        weight = weight[..., None] * line
    weight = (weight / (weight.max() / maximum)).astype(np.float32).astype(type)
    return np.where(weight == 0, weight[weight > 0].min(), weight)


def starts(length, tile, step):
    """Where the tiles along one axis begin."""
    count = ceil((length - tile) / (tile * step)) + 1
    return [round((length - tile) / max(count - 1, 1) * i) for i in range(count)]


if __name__ == "__main__":
    np.save(sys.argv[2], predict(np.load(sys.argv[1]), [float(each) for each in sys.argv[3:]] or None))
