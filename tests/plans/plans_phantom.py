"""A preprocessed folder as nnU-Net's planner leaves it, small, without images."""

import json
from pathlib import Path


def write(folder: Path, *, channels=3, dims=2, name="nnUNetPlans", normalization="RGBTo01Normalization") -> dict:
    """Write ``dataset.json`` and a plans file with a ``2d`` or ``3d_fullres`` configuration; returns the plans."""
    folder.mkdir(parents=True, exist_ok=True)
    label = "rgb_to_0_1" if normalization == "RGBTo01Normalization" else "CT"
    dataset = {
        "channel_names": {str(i): label for i in range(channels)},
        "labels": {"background": 0, "polyp": 1},
        "numTraining": 4,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    configuration = "2d" if dims == 2 else "3d_fullres"
    ops = f"torch.nn.modules.conv.Conv{dims}d"
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 16],
            "conv_op": ops,
            "kernel_sizes": [[3] * dims] * 3,
            "strides": [[1] * dims, [2] * dims, [2] * dims],
            "n_conv_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    plans = {
        "dataset_name": folder.name,
        "plans_name": name,
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": list(range(dims)),
        "transpose_backward": list(range(dims)),
        "configurations": {
            configuration: {
                "data_identifier": f"{name}_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [32] * dims,
                "spacing": [1.0] * dims,
                "normalization_schemes": [normalization] * channels,
                "use_mask_for_norm": [False] * channels,
                "batch_dice": True,
                "architecture": architecture,
            },
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }
    (folder / f"{name}.json").write_text(json.dumps(plans))
    return plans
