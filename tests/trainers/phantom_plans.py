"""Plans and a few preprocessed images, small enough to train on within a test."""

import json

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

ARCHITECTURES = "nnunetv2_xattnres.architectures"


def make_plans(folder, network="PaperUNet", input_size=None, recipe=None, labels=1, **kwargs):
    """Plans, dataset.json and five preprocessed 40x48 images (three to train, two to validate) in nnU-Net's layout."""
    dataset = folder / "preprocessed" / "Dataset001_Phantom"
    (dataset / "nnUNetPlans_2d").mkdir(parents=True)
    dataset_json = {
        "channel_names": {"0": "rgb_to_0_1", "1": "rgb_to_0_1", "2": "rgb_to_0_1"},
        "labels": {"background": 0, **{f"label{i}": i for i in range(1, labels + 1)}},
        "numTraining": 5,
        "file_ending": ".png",
    }
    rng = np.random.default_rng(0)
    for name in "abcde":
        mask = np.zeros((1, 1, 40, 48), np.int16)
        y, x = rng.integers(4, 20, 2)
        mask[0, 0, y : y + 16, x : x + 20] = 1
        image = (rng.random((3, 1, 40, 48)) * 0.3 + mask * 0.6).astype(np.float32)
        places = {1: np.argwhere(mask == 1)}
        nnUNetDatasetBlosc2.save_case(
            image, mask, {"class_locations": places}, str(dataset / "nnUNetPlans_2d" / name), (1, 1, 40, 48)
        )
    (dataset / "splits_final.json").write_text(json.dumps([{"train": list("abc"), "val": list("de")}]))
    (dataset / "dataset_fingerprint.json").write_text("{}")
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [40, 48],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["RGBTo01Normalization"] * 3,
        "use_mask_for_norm": [False] * 3,
        "batch_dice": True,
        "architecture": {
            "network_class_name": f"{ARCHITECTURES}.{network}",
            "arch_kwargs": {"input_size": input_size, **kwargs},
            "_kw_requires_import": [],
        },
    }
    if recipe is not None:
        configuration["paper_recipe"] = recipe
    plans = {
        "dataset_name": "Dataset001_Phantom",
        "plans_name": "nnUNetXAttnResPlans",
        "image_reader_writer": "NaturalImage2DIO",
        "label_manager": "LabelManager",
        "configurations": {"2d_both": configuration},
        "continue_training": False,
    }
    return plans, dataset_json
