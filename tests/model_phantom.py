"""A model folder and cases as nnU-Net leaves them, made in a second: plans, dataset.json, and a checkpoint."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from routed_networks import trained

TRAINER = "nnUNetTrainer"
NORMS = {2: "torch.nn.modules.instancenorm.InstanceNorm2d", 3: "torch.nn.modules.instancenorm.InstanceNorm3d"}


def unet_arguments(dims: int, routing: dict | None = None) -> dict:
    return {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * 3, "strides": [[1] * dims, [2] * dims, [2] * dims], "n_conv_per_stage": [2] * 3,
        "n_conv_per_stage_decoder": [1, 1], "conv_bias": True, "norm_op": NORMS[dims], "norm_op_kwargs": {},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {},
        "routing": routing or {},
    }  # fmt: skip


def write_model(
    folder: Path, dims: int, patch: list[int], *, spacing: list[float] | None = None, routing: dict | None = None,
    classes: int = 1, transpose: tuple[int, ...] = (0, 1, 2), queries: bool = True, folds: int = 1,
    architecture: dict | None = None,
) -> Path:  # fmt: skip
    """A routed U-Net (or what ``architecture`` says) in ``folder``; its queries are as after a training.

    2D models take RGB png, 3D models NIfTI with one channel.
    """
    channels = 3 if dims == 2 else 1
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    name = "2d" if dims == 2 else "3d_fullres"
    configuration = {
        "data_identifier": name, "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": patch,
        "median_image_size_in_voxels": patch, "spacing": spacing or [1.0] * dims,
        "normalization_schemes": ["RGBTo01Normalization" if dims == 2 else "ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels, "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": architecture or {
            "network_class_name": "nnunetv2_xattnres.architectures.XAttnResUNet",
            "arch_kwargs": unet_arguments(dims, routing), "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
        },
        "batch_dice": True,
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset001_Phantom", "plans_name": "nnUNetPlans", "transpose_forward": list(transpose),
        "original_median_spacing_after_transp": [1.0] * 3, "original_median_shape_after_transp": [32] * 3,
        "transpose_backward": np.argsort(transpose).tolist(), "experiment_planner_used": "ExperimentPlanner",
        "image_reader_writer": "NaturalImage2DIO" if dims == 2 else "SimpleITKIO", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(channels)},
        "configurations": {name: configuration},
    }  # fmt: skip
    dataset = {
        "channel_names": {str(channel): "R" if dims == 2 else "MRI" for channel in range(channels)},
        "labels": {"background": 0} | {f"class {number}": number for number in range(1, classes + 1)},
        "numTraining": 1,
        "file_ending": ".png" if dims == 2 else ".nii.gz",
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    for fold in range(folds):
        torch.manual_seed(fold)
        manager = PlansManager(plans)
        network = nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration(name), channels, classes + 1, enable_deep_supervision=False
        )
        if queries:
            trained(network, fold)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(), "trainer_name": TRAINER, "init_args": {"configuration": name},
            "inference_allowed_mirroring_axes": tuple(range(dims)),
        }  # fmt: skip
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def write_frames(folder: Path, cases: int, size: tuple[int, int] = (32, 48), classes: int = 1) -> tuple[Path, Path]:
    """RGB frames with a disc for each class, and their masks."""
    random = np.random.default_rng(0)
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for case in range(cases):
        mask = discs(size, classes, random)
        picture = np.stack([random.normal(90 + 12 * mask, 15) for _ in range(3)], -1).clip(1, 255).astype(np.uint8)
        Image.fromarray(picture).save(images / f"frame_{case}_0000.png")
        Image.fromarray(mask).save(labels / f"frame_{case}.png")
    return images, labels


def discs(size: tuple[int, int], classes: int, random: np.random.Generator) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    radius = min(size) / (2.2 + 1.2 * np.sqrt(classes - 1))
    for number in range(1, classes + 1):
        centre = random.uniform(radius, np.array(size) - radius)
        mask[np.hypot(*(np.mgrid[: size[0], : size[1]] - centre[:, None, None])) < radius * 0.8] = number
    return mask


def write_volume(folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...], margin: int = 0) -> Path:
    """A volume (x, y, z) whose first and last ``margin`` voxels along each axis are 0: nnU-Net crops them."""
    folder.mkdir(parents=True)
    values = np.zeros(shape, dtype=np.float32)
    inner = tuple(slice(margin, length - margin) for length in shape)
    random = np.random.default_rng(1)
    values[inner] = random.uniform(1, 2, values[inner].shape)
    angle = np.deg2rad(10)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(spacing)
    affine[:3, 3] = (5, -7, 11)
    nib.save(nib.Nifti1Image(values, affine), folder / "volume_0000.nii.gz")
    return folder
