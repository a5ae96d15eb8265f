"""A small data set in nnU-Net raw format: blobs brighter than their noisy background, in RGB."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_dataset(raw: Path, identifier: int, side: int = 64, cases: int = 8, regions: bool = False) -> Path:
    """``DatasetNNN_Phantom`` below ``raw``, with two more cases for the test.

    With ``regions``, a blob has a core, and the images have a border whose label is to be ignored.
    """
    folder = raw / f"Dataset{identifier:03d}_Phantom"
    random = np.random.default_rng(identifier)
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    for case in range(cases + 2):
        part = "Tr" if case < cases else "Ts"
        offsets = np.mgrid[:side, :side] / side - random.uniform(0.3, 0.7, (2, 1, 1))
        distance = np.linalg.norm(offsets, axis=0)
        label = (distance < 0.22).astype(np.uint8)
        grey = random.normal(90, 25, (side, side)) + 70 * label
        if regions:
            label[distance < 0.12] = 2
            label[:, :4] = 3
        image = np.stack([grey, grey * 0.7, grey * 0.5], -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"images{part}" / f"case_{case:02d}_0000.png")
        Image.fromarray(label).save(folder / f"labels{part}" / f"case_{case:02d}.png")
    description = {
        "channel_names": {str(channel): "rgb_to_0_1" for channel in range(3)},
        "labels": {"background": 0, "blob": 1},
        "numTraining": cases,
        "file_ending": ".png",
    }
    if regions:
        description["labels"] = {"background": 0, "blob": [1, 2], "core": 2, "ignore": 3}
        description["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def shrink(plans_file: Path, configuration: str) -> None:
    """Give a configuration the batch and the width that a test can afford."""
    plans = json.loads(plans_file.read_text())
    values = plans["configurations"][configuration]
    values["batch_size"] = 2
    arguments = values["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [min(8 * 2**s, 32) for s in range(arguments["n_stages"])]
    plans_file.write_text(json.dumps(plans))
