"""Predicts with the untrained network, whose Dice the demo compares with that of the trained one."""

import contextlib
import io
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels


def predict_untrained(model: Path, images: Path, output: Path, *, device: str = "cpu", seed: int = 0) -> None:
    """Predict every image with freshly initialised weights.

    Args:
        model: Folder of a trained model. Its plans name the network; its weights are not used.
        images: Folder of images in nnU-Net's naming.
        output: Folder for the predictions, created if it is missing.
        device: ``cpu``, ``cuda`` or ``mps``.
        seed: Seed of the weights.
    """
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's notes on the device
        predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
        torch.manual_seed(seed)
        network = nnUNetTrainer.build_network_architecture(
            predictor.plans_manager,
            predictor.configuration_manager,
            determine_num_input_channels(
                predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
            ),
            predictor.label_manager.num_segmentation_heads,
            enable_deep_supervision=False,
        )
        predictor.list_of_parameters = [network.state_dict()]
        predictor.predict_from_files_sequential(str(images), str(output))
