"""The cases that a run looks at: found, checked, and read with nnU-Net's own classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.cases import read_mask
from nnunetv2_xattnres.reading import check_whole
from nnunetv2_xattnres.trained_model import silent


@dataclass(frozen=True)
class Case:
    """One case of the images' folder."""

    name: str
    images: tuple[str, ...]
    reference: Path | None = None


def find_cases(predictor: Any, images: Path, labels: Path | None, wanted: Sequence[str] | None) -> list[Case]:
    """The cases of a folder, all or those of these names, with their references where ``labels`` is given.

    Raises:
        InputError: a folder, an image or a reference is missing; all of them are listed.
    """
    for folder in filter(None, (images, labels)):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
    ending = predictor.dataset_json["file_ending"]
    # nnU-Net's own listing forks a pool of processes, which hangs at times in a process that has used torch's threads
    channels: dict[str, list[str]] = {}
    for path in sorted(images.iterdir()):
        if (found := re.fullmatch(rf"([^.].*)_\d{{4}}{re.escape(ending)}", path.name)) and path.is_file():
            channels.setdefault(found[1], []).append(str(path))
    cases = [
        Case(name, tuple(files), labels / f"{name}{ending}" if labels else None) for name, files in channels.items()
    ]
    if not cases:
        raise InputError(f"{images} has no image NAME_0000{ending}: -i names a folder as for nnUNetv2_predict.")
    if wanted is not None:
        if unknown := [f"{name} is not in {images}" for name in wanted if name not in channels]:
            raise InputError("--cases names cases that do not exist.", unknown)
        cases = [case for case in cases if case.name in wanted]
    references = [case.reference for case in cases if case.reference]
    if problems := [f"{path} does not exist" for path in references if not path.is_file()]:
        raise InputError("Not every case has a reference in --labels.", problems)
    return cases


def preprocess(predictor: Any, case: Case) -> tuple[torch.Tensor, dict[str, Any]]:
    """``[C, *S]`` with three spatial axes, float32, and what nnU-Net says about the case.

    Raises:
        InputError: nnU-Net cannot read it, or it has not the channels that the model was trained with.
    """
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    try:
        for path in case.images:
            check_whole(Path(path))
        data, _, properties = preprocessor.run_case(
            list(case.images), None, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        )
    except MemoryError:
        raise
    except Exception as error:  # readers raise whatever their library raises
        raise InputError(f"nnU-Net cannot read {', '.join(case.images)}: {error}") from error
    channels = determine_num_input_channels(
        predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    )
    if len(data) != channels:
        raise InputError(f"{case.name} has {len(data)} channels, and the model was trained with {channels}.")
    return torch.from_numpy(np.asarray(data, dtype=np.float32)), properties


def predict(predictor: Any, case: Case, data: torch.Tensor, properties: dict[str, Any], folder: Path) -> Path:
    """nnU-Net's own prediction of a preprocessed case, as a file in ``folder``."""
    from nnunetv2.inference.export_prediction import export_prediction_from_logits

    with silent():
        export_prediction_from_logits(
            predictor.predict_logits_from_preprocessed_data(data).cpu(),
            properties,
            predictor.configuration_manager,
            predictor.plans_manager,
            predictor.dataset_json,
            str(folder / case.name),
            num_threads_torch=torch.get_num_threads(),
        )
    return folder / f"{case.name}{predictor.dataset_json['file_ending']}"


def read_labels(predictor: Any, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A label image in nnU-Net's three axes.

    Raises:
        InputError: it cannot be read, or is not of ``shape``.
    """
    try:
        labels, _, _ = read_mask(path, predictor.plans_manager.image_reader_writer_class)
    except Exception as error:  # as above
        raise InputError(f"{path} cannot be used: {error}") from error
    if labels.size != int(np.prod(shape)) or [n for n in labels.shape if n > 1] != [n for n in shape if n > 1]:
        raise InputError(f"{path} has shape {labels.shape}, and its image {shape}: they do not belong together.")
    return labels.reshape(shape)
