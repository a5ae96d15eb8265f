"""A small data set in nnU-Net raw format: blobs brighter than their noisy background, 2D RGB or 3D."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write_dataset(raw: Path, identifier: int, shape: tuple[int, ...], cases: int = 8) -> Path:
    """``DatasetNNN_Phantom`` below ``raw``; two spatial dimensions give RGB PNG, three give NIfTI."""
    folder = raw / f"Dataset{identifier:03d}_Phantom"
    flat = len(shape) == 2
    ending = ".png" if flat else ".nii.gz"
    random = np.random.default_rng(identifier)
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    for case in range(cases + 2):
        part = "Tr" if case < cases else "Ts"
        grid = np.stack(np.meshgrid(*[np.arange(s) for s in shape], indexing="ij"), -1)
        centre = random.uniform(0.3, 0.7, len(shape)) * shape
        label = (np.linalg.norm((grid - centre) / shape, axis=-1) < 0.22).astype(np.uint8)
        image = random.normal(90, 25, shape) + 70 * label
        if flat:
            image = np.stack([image, image * 0.7, image * 0.5], -1).clip(0, 255).astype(np.uint8)
            pixels = sitk.GetImageFromArray(image, isVector=True)
            channels = {str(i): "rgb_to_0_1" for i in range(3)}
        else:
            pixels = sitk.GetImageFromArray(image.astype(np.float32))
            pixels.SetSpacing((1.0, 1.0, 2.5))
            channels = {"0": "MRI"}
        mask = sitk.GetImageFromArray(label)
        mask.SetSpacing(pixels.GetSpacing())
        sitk.WriteImage(pixels, str(folder / f"images{part}" / f"case_{case:02d}_0000{ending}"))
        sitk.WriteImage(mask, str(folder / f"labels{part}" / f"case_{case:02d}{ending}"))
    description = {
        "channel_names": channels,
        "labels": {"background": 0, "blob": 1},
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def shrink(plans_file: Path, configuration: str, batch_size: int = 2, patch: tuple[int, ...] | None = None) -> None:
    """Give a configuration the size that a test can afford."""
    plans = json.loads(plans_file.read_text())
    values = plans["configurations"][configuration]
    values["batch_size"] = batch_size
    if patch:
        values["patch_size"] = list(patch)
    arguments = values["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [min(8 * 2**s, 32) for s in range(arguments["n_stages"])]
    plans_file.write_text(json.dumps(plans))
