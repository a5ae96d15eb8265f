"""One image in Python: arrays in, labels or probabilities out, as ``nnUNetv2_predict`` gives them for files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from PIL import Image

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import DATASET_JSON, FINAL, PLANS_JSON
from nnunetv2_xattnres.system import check_device
from nnunetv2_xattnres.trained_model import load_predictor, silent

NO_SPACING = (999, 1, 1)  # what nnU-Net's reader of PNG, BMP and 2D TIFF says
BETWEEN_SLICES = 999  # times the larger spacing of a 2D image: what nnU-Net's readers say for its third axis
PIXEL_MODES = ("L", "RGB", "I;16", "I", "F", "LA", "RGBA")  # of PIL; the pixels of the others are no intensities
WIDE = 10.0  # intensities of a training that spread less can be of images from 0 to 1


class Predictor:
    """A trained model of nnU-Net (of this package, or any other) that predicts one array after another.

    It is a thin layer over ``nnUNetPredictor``: the same preprocessing, sliding window, mirroring and folds. The result
    is that of ``nnUNetv2_predict``. The variable ``nnUNet_extTrainer`` is not needed for models of this package.
    Threads of a process predict one after another: for several GPUs, start a process per GPU.

    Example:
        >>> from nnunetv2_xattnres import Predictor
        >>> predict = Predictor("nnUNet_results/Dataset501_ClinicDB/nnUNetTrainer_XAttnRes__nnUNetPlans__2d")
        >>> labels = predict(frame)                                      # H×W×3, RGB, 0 to 255
        >>> probabilities = predict(frame, probabilities=True)           # classes×H×W
        >>> labels = predict_ct(volume, spacing=(2.5, 0.7, 0.7))         # Z×Y×X, millimetres of z, y, x

    Args:
        model: Folder of the model, with ``plans.json``, ``dataset.json`` and the folders ``fold_N``.
        folds: A fold, or several, whose predictions are averaged; by default every numbered fold that has the
            checkpoint, or ``"all"`` where there is no other.
        checkpoint: File name of the checkpoints.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; by default ``cuda`` if torch finds one, else ``cpu``.
        mirror: Also predict mirror images, as nnU-Net does by default. Without it, a prediction is 4 times (2D) or 8
            times (3D) as fast.
        step_size: Step of the sliding window, as a part of the patch.

    Raises:
        InputError: the folder holds no such model, the device cannot be used, nnU-Net cannot load the model, or the
            model is the second one of a cascade.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        *,
        folds: int | str | Sequence[int | str] | None = None,
        checkpoint: str = FINAL,
        device: str | torch.device | None = None,
        mirror: bool = True,
        step_size: float = 0.5,
    ) -> None:
        folder = Path(model)
        wanted = _find_folds(folder, folds, checkpoint)
        if not 0 < step_size <= 1:
            raise InputError(f"step_size is {step_size:g}: give a part of the patch, more than 0 and at most 1")
        device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        check_device(device, 'device="cpu"')
        self._predictor = load_predictor(
            folder, wanted, checkpoint=checkpoint, step_size=step_size, mirroring=mirror, device=device
        )
        plans, configuration = self._predictor.plans_manager, self._predictor.configuration_manager
        self._channels = determine_num_input_channels(plans, configuration, self._predictor.dataset_json)
        self._natural = plans.image_reader_writer_class.__name__ == "NaturalImage2DIO"
        self._schemes = list(configuration.normalization_schemes)
        self._intensities = plans.foreground_intensity_properties_per_channel

    def __call__(
        self, image: Any, spacing: Sequence[float] | None = None, *, probabilities: bool = False
    ) -> np.ndarray:
        """Predict one image.

        Args:
            image: An array, or what ``numpy.asarray`` makes one of (a tensor on the CPU, a PIL image), of integers or
                floats in the range of the training images, for example 0 to 255.

                - For a model of PNG, BMP or 2D TIFF: ``H×W×3`` with the channels in the order of the training, which is
                  red, green, blue (OpenCV reads blue first); ``H×W`` for a model with one channel.
                - For a model of volumes: ``Z×Y×X``, or ``C×Z×Y×X`` for a model with several channels. This is the order
                  of SimpleITK's ``GetArrayFromImage``; an array of nibabel has the order x, y, z: transpose it.
                - For a model of 2D images with a spacing: ``Y×X`` or ``C×1×Y×X``.
            spacing: Of a volume, in the order of its axes: z, y, x, in the unit of the training, which is mm for
                medical images (for SimpleITK ``image.GetSpacing()[::-1]``). Two numbers for ``Y×X``. Images of PNG, BMP
                and 2D TIFF have none.
            probabilities: Return probabilities in place of labels.

        Returns:
            Labels with the image's spatial axes, uint8 (uint16 for more than 254 classes); or float32 probabilities
            from 0 to 1, with an axis of classes in front: in the order of the labels, background first. For a model of
            regions, it is an axis of regions, without background.

        Raises:
            InputError: the array or its spacing is not what the model was trained with.
        """
        array = _as_array(image)
        data, spacing_of_three = self._as_frame(array, spacing) if self._natural else self._as_volume(array, spacing)
        with np.errstate(over="ignore"):  # the next check names them
            values = np.ascontiguousarray(data, dtype=np.float32)
        if not (finite := np.isfinite(values)).all():
            raise InputError(
                f"The array has {values.size - int(finite.sum())} values that are NaN, infinite or too large for "
                "float32: replace them, for example with numpy.nan_to_num"
            )
        self._check_range(values, array.dtype)
        with silent():
            found = self._predictor.predict_single_npy_array(
                values, {"spacing": spacing_of_three}, save_or_return_probabilities=probabilities
            )
        result = found[1] if probabilities else found
        if array.ndim == 2 or self._natural:
            result = result[..., 0, :, :]
        return np.ascontiguousarray(result, dtype=np.float32 if probabilities else None)

    def _as_frame(self, array: np.ndarray, spacing: Sequence[float] | None) -> tuple[np.ndarray, tuple[float, ...]]:
        """``C×1×H×W`` of ``H×W×C`` or ``H×W``."""
        wanted = f"H×W×{self._channels}" if self._channels > 1 else "H×W"
        if spacing is not None:
            raise InputError("spacing is given, but images of this model have none: leave it out")
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3:
            raise InputError(f"The array has the shape {array.shape}, and this model takes one image, {wanted}")
        channels = array.shape[2]
        if channels != self._channels:
            if array.shape[0] == self._channels > 1:
                advice = "channels are the last axis: use numpy.moveaxis(array, 0, -1)"
            elif channels == 1:
                advice = f"it is grey: use numpy.repeat(array.reshape(*array.shape[:2], 1), {self._channels}, axis=2)"
            elif channels == 4 and self._channels == 3:
                advice = "it has an alpha channel: use array[..., :3]"
            elif self._channels == 1:
                advice = "give one channel, made grey as for the training"
            else:
                advice = "give the channels of the training"
            raise InputError(f"The array has the shape {array.shape}, and this model takes {wanted}: {advice}")
        return array.transpose(2, 0, 1)[:, None], NO_SPACING

    def _as_volume(self, array: np.ndarray, spacing: Sequence[float] | None) -> tuple[np.ndarray, tuple[float, ...]]:
        """``C×Z×Y×X``, and its three spacings."""
        wanted = "Z×Y×X" if self._channels == 1 else f"{self._channels}×Z×Y×X"
        dims = 2 if array.ndim == 2 else 3
        if array.ndim in (2, 3):
            data = array.reshape(1, *(1,) * (3 - dims), *array.shape)
        elif array.ndim == 4:
            data = array
        else:
            raise InputError(f"The array has the shape {array.shape}, and this model takes one image, {wanted}")
        if len(data) != self._channels:
            last = array.ndim == 4 and array.shape[-1] == self._channels
            advice = (
                "channels are the first axis: use numpy.moveaxis(array, -1, 0)"
                if last
                else f"put the model's {self._channels} channel(s) first, for example with numpy.stack"
            )
            raise InputError(f"The array has the shape {array.shape}, and this model takes {wanted}: {advice}")
        lengths = _check_spacing(spacing, dims)
        return data, lengths if dims == 3 else (max(lengths) * BETWEEN_SLICES, *lengths)

    def _check_range(self, data: np.ndarray, dtype: np.dtype) -> None:
        """Meet images from 0 to 1 for a model of other intensities, where nnU-Net does not rescale each image."""
        for channel, scheme in enumerate(self._schemes):
            low, high = float(data[channel].min()), float(data[channel].max())
            where = f"Channel {channel} of the array" if len(data) > 1 else "The array"
            if scheme == "RGBTo01Normalization":
                trained_low, trained_high = 0.0, 255.0
                if low < 0 or high > 255:
                    raise InputError(
                        f"{where} has values from {low:g} to {high:g}, and this model was trained on 0 to 255: "
                        "scale them as for the training"
                    )
            elif scheme in ("CTNormalization", "NoNormalization"):
                seen = self._intensities.get(str(channel), {})
                trained_low, trained_high = seen.get("percentile_00_5", 0.0), seen.get("percentile_99_5", 0.0)
            else:
                continue
            between = low >= 0 and 0 < high <= 1 and dtype.kind == "f"
            if between and trained_high - trained_low > WIDE:
                raise InputError(
                    f"{where} holds floats from {low:g} to {high:g}, and this model was trained on values from about "
                    f"{trained_low:g} to {trained_high:g}: scale them as for the training, or give integers if these "
                    "are the values"
                )


def _as_array(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image) and image.mode not in PIXEL_MODES:
        raise InputError(f'The image has the PIL mode {image.mode}: use image.convert("RGB"), or convert("L") for grey')
    try:
        array = np.asarray(image)
    except Exception as error:  # each type refuses in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{type(image).__name__} cannot be made a NumPy array ({reason}): give an array, for a tensor "
            "tensor.detach().cpu().numpy()"
        ) from error
    if array.dtype.kind not in "uif":
        raise InputError(
            f"The image ({type(image).__name__}) gives an array of {array.dtype}, and the model takes integers or "
            "floats: give the pixels as an array (a file has to be opened first, for example with "
            "numpy.asarray(PIL.Image.open(file)) or SimpleITK.GetArrayFromImage)"
        )
    if array.size == 0:
        raise InputError(f"The array has the shape {array.shape}: it is empty")
    return array


def _check_spacing(spacing: Sequence[float] | None, dims: int) -> tuple[float, ...]:
    order = "z, y, x" if dims == 3 else "y, x"
    if spacing is None:
        raise InputError(f"spacing is missing: give the distances between voxels in the order {order}, in mm")
    try:
        lengths = tuple(float(length) for length in spacing)
    except (TypeError, ValueError) as error:
        raise InputError(f"spacing is {spacing!r}: give {dims} numbers, in the order {order}") from error
    if len(lengths) != dims:
        raise InputError(f"spacing has {len(lengths)} numbers: give {dims}, in the order {order}")
    if not all(math.isfinite(length) and length > 0 for length in lengths):
        raise InputError(f"spacing is {lengths}: every number must be more than 0, in the order {order}")
    return lengths


def _find_folds(model: Path, folds: int | str | Sequence[int | str] | None, checkpoint: str) -> list[str]:
    """The names of the folds, all of which have the checkpoint.

    Raises:
        InputError: the folder is no model, or a fold or its checkpoint is missing.
    """
    if not model.is_dir():
        raise InputError(f"{model} is not a folder: give the folder of a model, with plans.json and fold_0 in it")
    needed = [model / name for name in (DATASET_JSON, PLANS_JSON)]
    if missing := [f"{path} does not exist" for path in needed if not path.is_file()]:
        raise InputError("This is no folder of a model: give the one that nnUNetv2_train wrote, above fold_0", missing)
    present = {path.parent.name.removeprefix("fold_") for path in model.glob(f"fold_*/{checkpoint}")}
    if folds is None:
        numbered = sorted((name for name in present if name.isdecimal()), key=int)
        wanted = numbered or sorted(present & {"all"})
    else:
        wanted = [str(fold) for fold in ([folds] if isinstance(folds, (int, str)) else folds)]
    if not wanted or not set(wanted) <= present:
        others = sorted(path.relative_to(model).as_posix() for path in model.glob("fold_*/*.pth"))
        asked = f"fold {', '.join(wanted)}" if wanted else "any fold"
        raise InputError(
            f"{model} has no {checkpoint} of {asked}: set folds and checkpoint; it has {', '.join(others) or 'none'}"
        )
    return wanted
