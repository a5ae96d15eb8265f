"""Predict labels with onnxruntime and numpy alone: ``python predict_onnx.py IMAGE.npy LABELS.npy [SPACING ...]``.

IMAGE.npy holds ``[channels, *axes]``, axes in the order of nnU-Net's readers: (y, x), or (z, y, x) as in SimpleITK.
The image must have the spacing (mm) that export.json names: nothing is resampled. Nothing is mirrored.
"""

import json
import sys
from functools import lru_cache, reduce
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def predict(image: np.ndarray, spacing: Any = None, folder: Path = Path(__file__).parent) -> np.ndarray:
    """Labels of an image ``[channels, *axes]``; ``spacing`` (mm, in the order of its axes) is checked if given."""
    about, session = opened(folder)
    size, axes, channels = about["tiles"]["size"], about["axes"]["transpose_forward"], about["channels"]
    every, flat = (slice(None),), 3 - len(size)  # a 2D network predicts slice by slice
    if about["script_lacks"]:
        raise ValueError(f"the model needs what this script lacks: {', '.join(about['script_lacks'])}")
    if image.ndim not in (3, 4) or len(image) != len(channels):
        raise ValueError(f"the image has the shape {image.shape}, and not [{len(channels)} channels, *axes]")
    x = image.astype(np.float32).reshape(len(image), *(1,) * (4 - image.ndim), *image.shape[1:])
    x = x.transpose(0, *(axis + 1 for axis in axes))
    if spacing is not None:
        found = [([1.0] * (3 - len(spacing)) + list(spacing))[axis] for axis in axes][flat:]
        if any(round(a / b * n) != n for a, b, n in zip(found, about["spacing"], x.shape[1 + flat :], strict=True)):
            raise ValueError(f"the image's spacing is {found}: resample it to {about['spacing']} (axes as transposed)")

    whole, mask = x.shape[1:], (x != 0).any(0)  # nnU-Net crops to what is not zero
    ends = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(each[0], each[-1] + 1) if len(each) else slice(None) for each in ends)
    x, mask = x[every + box], fill_holes(mask[box]) if any(each["use_mask"] for each in channels) else mask[box]
    x = np.stack([normalise(values, mask, how) for values, how in zip(x, channels, strict=True)])

    tile = [1] * flat + size
    missing = [max(want - have, 0) for want, have in zip(tile, x.shape[1:], strict=True)]
    inside = tuple(slice(each // 2, each // 2 + have) for each, have in zip(missing, x.shape[1:], strict=True))
    x = np.pad(x, [(0, 0), *((each // 2, each - each // 2) for each in missing)])
    weight = gaussian(about["tiles"]["gaussian"]["axes"], about["tiles"]["gaussian"]["maximum"])
    total = np.zeros((about["output"]["shape"][1], *x.shape[1:]), np.float16)  # sums are rounded as in nnU-Net
    weights = np.zeros(x.shape[1:], np.float16)
    for corner in product(*map(starts, x.shape[1:], tile, [about["tiles"]["step"]] * 3)):
        at = tuple(slice(start, start + length) for start, length in zip(corner, tile, strict=True))
        (logits,) = session.run(None, {about["input"]["name"]: x[every + at].reshape(1, len(x), *size)})
        total[every + at] += (logits[0] * weight).reshape(-1, *tile)
        weights[at] += weight.reshape(tile)
    logits = (total / weights)[every + inside]
    if np.isinf(logits).any():
        raise ValueError("a logit is larger than float16 can hold: nnU-Net stops here as well")

    labels = np.zeros(whole, about["label_type"])
    if about["regions"] is None:
        labels[box] = logits.argmax(0)
    else:  # later regions lie upon earlier ones
        for region, value in zip(logits.astype(np.float32), about["regions_class_order"], strict=True):
            labels[box][1 / (1 + np.exp(-region)) > 0.5] = value
    return labels.transpose(about["axes"]["transpose_backward"]).reshape(image.shape[1:])


@lru_cache(maxsize=1)
def opened(folder: Path) -> tuple[dict[str, Any], Any]:
    """The content of export.json, and the network."""
    network = onnxruntime.InferenceSession(folder / "network.onnx", providers=onnxruntime.get_available_providers())
    return json.loads((folder / "export.json").read_text(encoding="utf-8")), network


def starts(length: int, tile: int, step: float) -> list[int]:
    """Where the tiles along one axis begin; a tile of one pixel stands for slices."""
    count = length if tile == 1 else ceil((length - tile) / (tile * step)) + 1
    return [round((length - tile) / max(count - 1, 1) * i) for i in range(count)]


def gaussian(lines: list[list[float]], maximum: float) -> np.ndarray:
    """The weights of a tile's pixels, rounded as in nnU-Net."""
    weight = reduce(np.multiply.outer, map(np.array, lines))
    weight = (weight / (weight.max() / maximum)).astype(np.float32).astype(np.float16)
    weight[weight == 0] = weight[weight > 0].min()
    return weight


def normalise(x: np.ndarray, mask: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """One channel, as nnU-Net's class of that name does it."""
    name, facts = how["normalisation"], how["intensity_properties"]
    if name == "ZScoreNormalization":
        part = x[mask] if how["use_mask"] else x
        return np.where(mask | (not how["use_mask"]), (x - part.mean()) / max(part.std(), 1e-8), x)
    if name == "CTNormalization":
        x = np.clip(x, facts["percentile_00_5"], facts["percentile_99_5"])
        return (x - facts["mean"]) / max(facts["std"], 1e-8)
    if name == "RescaleTo01Normalization":
        return (x - x.min()) / max((x - x.min()).max(), 1e-8)
    if name == "RGBTo01Normalization" and (x.min() < 0 or x.max() > 255):
        raise ValueError("the model takes values from 0 to 255, and the image has others")
    return x / 255.0 if name == "RGBTo01Normalization" else x


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """True also where False is enclosed on all sides."""
    outside = np.pad(~mask, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0, 0, 0] = True
    count = 0
    while count < reached.sum():
        count = reached.sum()
        for axis, way in product(range(3), (1, -1)):
            to, free = np.moveaxis(reached, axis, 0)[::way], np.moveaxis(outside, axis, 0)[::way]
            for i in range(1, len(to)):
                to[i] |= to[i - 1] & free[i]
    return ~reached[1:-1, 1:-1, 1:-1]


if __name__ == "__main__":
    np.save(sys.argv[2], predict(np.load(sys.argv[1]), [float(each) for each in sys.argv[3:]] or None))
