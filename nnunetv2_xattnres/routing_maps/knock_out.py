"""What an entry is worth: the same prediction with one entry of one reader left out.

Routing weights say what a reader looks at. They do not say what it needs: an entry with a large weight can be replaced
by another one that holds the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.readers import Reader, arguments_of, unwrapped
from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.evaluation.metrics import overlap
from nnunetv2_xattnres.trained_model import silent


@contextmanager
def knocked_out(network: nn.Module, module: str, entries: Collection[int]) -> Iterator[None]:
    """While this is entered, the weights of ``entries`` in one reader are 0, and the others add up to 1 again.

    Args:
        network: The network, which does not change: a hook replaces what the reader returns.
        module: Path of the reader, as in :class:`~nnunetv2_xattnres.architectures.readers.Reader`.
        entries: Indices into the reader's entries; the last one is the current feature.

    Raises:
        ValueError: in the forward pass: an index does not exist, or no entry is left.
    """

    def replace(reader: XAttnRes, args: tuple, named: dict[str, Any], output: Tensor) -> Tensor:
        return reader.mix_without(entries, *arguments_of(args, named))

    handle = unwrapped(network).get_submodule(module).register_forward_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def knock_out_dice(
    predictor: Any,
    data: Tensor,
    properties: dict[str, Any],
    reference: np.ndarray,
    labels: Labels,
    readers: Sequence[Reader],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Dice of one case, as it is and without each entry of each reader.

    Args:
        predictor: An initialised ``nnUNetPredictor``.
        data: The preprocessed case.
        properties: What the preprocessor says about it.
        reference: Labels, in the geometry of the image.
        labels: The data set's classes.
        readers: The readers to try.

    Returns:
        Dice of each class ``[classes]``, NaN where neither mask has it; module path to the Dice without each entry,
        ``[K+1, classes]``.
    """
    whole = dice_by_class(reference, _predict(predictor, data, properties), labels)
    without = {}
    for reader in readers:
        rows = []
        for index in range(len(reader.entries)):
            with knocked_out(predictor.network, reader.module, [index]):
                rows.append(dice_by_class(reference, _predict(predictor, data, properties), labels))
        without[reader.module] = np.stack(rows)
    return whole, without


def dice_by_class(reference: np.ndarray, prediction: np.ndarray, labels: Labels) -> np.ndarray:
    """Dice of each class, 0 to 1, NaN where neither mask has it; pixels to be ignored are left out."""
    if labels.ignore is not None:
        reference, prediction = (np.where(reference == labels.ignore, 0, mask) for mask in (reference, prediction))
    scores = []
    for values in labels.foreground.values():
        masks = np.isin(reference, values), np.isin(prediction, values)
        scores.append(overlap(*masks)[0] if any(mask.any() for mask in masks) else np.nan)
    return np.array(scores)


def _predict(predictor: Any, data: Tensor, properties: dict[str, Any]) -> np.ndarray:
    """nnU-Net's own prediction of a preprocessed case, in the geometry of the image."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

    with silent():
        logits = predictor.predict_logits_from_preprocessed_data(data).cpu()
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
