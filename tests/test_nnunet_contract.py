"""What the package relies on in nnU-Net, beyond its commands: a test for each row of CONTRIBUTING.md's table.

Each is small, and says what has changed when a new nnU-Net breaks it.
"""

import inspect
import re
from pathlib import Path

import pytest
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2 import paths
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.dataloading import nnunet_dataset
from nnunetv2.training.logging import nnunet_logger
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities import find_objects
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_xattnres import nnunet_layout as layout
from nnunetv2_xattnres.benchmark.cases import unet_arguments
from nnunetv2_xattnres.trainers.base import PluginTrainer

ROOT = Path(__file__).parents[1]


def source(thing):
    return inspect.getsource(thing)


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_trainers_constructor():
    expected = ["self", "plans", "configuration", "fold", "dataset_json", "device"]
    assert parameters(nnUNetTrainer.__init__) == parameters(PluginTrainer.__init__) == expected
    assert "locals()[k]" in source(nnUNetTrainer.__init__)  # reads the arguments by the subclass's signature


@pytest.mark.parametrize(
    ("name", "arguments"),
    {
        "initialize": 0,
        "do_split": 0,
        "get_dataloaders": 0,
        "configure_optimizers": 0,
        "_build_loss": 0,
        "on_train_start": 0,
        "on_train_end": 0,
        "on_train_epoch_start": 0,
        "on_epoch_start": 0,
        "on_train_epoch_end": 1,
        "train_step": 1,
        "on_validation_epoch_start": 0,
        "on_validation_epoch_end": 1,
        "validation_step": 1,
        "on_epoch_end": 0,
        "save_checkpoint": 1,
        "load_checkpoint": 1,
    }.items(),
)
def test_the_trainers_methods_that_are_overridden(name, arguments):
    assert len(parameters(getattr(nnUNetTrainer, name))) == 1 + arguments
    # the last link of each chain: somebody calls it
    assert name == "load_checkpoint" or f"self.{name}(" in source(nnUNetTrainer)


def test_the_trainers_methods_that_are_called():
    for name in ("_do_i_compile", "_get_deep_supervision_scales", "get_tr_and_val_datasets"):
        assert parameters(getattr(nnUNetTrainer, name)) == ["self"]
    assert "also_print_to_console" in parameters(nnUNetTrainer.print_to_log_file)
    assert parameters(nnUNetTrainer.get_validation_transforms)[0] == "deep_supervision_scales"


@pytest.mark.parametrize(
    "name",
    [
        "batch_size",
        "configuration_manager",
        "configuration_name",
        "current_epoch",
        "dataset_class",
        "device",
        "enable_deep_supervision",
        "fold",
        "grad_scaler",
        "inference_allowed_mirroring_axes",
        "initial_lr",
        "is_ddp",
        "label_manager",
        "local_rank",
        "logger",
        "loss",
        "network",
        "num_epochs",
        "num_iterations_per_epoch",
        "num_val_iterations_per_epoch",
        "optimizer",
        "output_folder",
        "plans_manager",
        "preprocessed_dataset_folder",
        "preprocessed_dataset_folder_base",
        "weight_decay",
        "_best_ema",
    ],
)
def test_the_trainers_attributes(name):
    assert re.search(rf"self\.{name}\b[^=\n]*=[^=]", source(nnUNetTrainer)) or hasattr(nnUNetTrainer, name)


def test_the_checkpoints_keys_and_names():
    assert f"'{layout.TRAINER_KEY}': self.__class__.__name__" in source(nnUNetTrainer.save_checkpoint)
    for key in (layout.WEIGHTS_KEY, layout.EPOCH_KEY):
        assert f"'{key}'" in source(nnUNetTrainer.save_checkpoint)
    for name in (layout.FINAL, layout.LATEST, layout.BEST):
        assert name in source(nnUNetTrainer)


def test_a_prediction_finds_its_trainer_by_the_checkpoint():
    text = source(nnUNetPredictor.initialize_from_trained_model_folder)
    assert f"checkpoint['{layout.TRAINER_KEY}']" in text and "recursive_find_trainer_class_by_name" in text


def test_the_hook_for_trainers():
    assert f"'{layout.HOOK}'" in source(paths)
    assert parameters(find_objects.recursive_find_trainer_class_by_name) == ["trainer_name"]
    assert "split(os.pathsep)" in source(find_objects.recursive_find_trainer_class_by_name)


def test_the_environment_variables():
    for name in layout.FOLDERS:
        assert hasattr(paths, name)


def test_the_logs_lines():
    text = source(nnUNetTrainer)
    assert "f'Epoch {self.current_epoch}'" in text
    assert "self.print_to_log_file('train_loss'" in text and "self.print_to_log_file('Pseudo dice'" in text
    assert "training_log_%d_%d_%d_" in text


def test_the_results_folders():
    text = source(nnUNetTrainer.__init__)
    assert "self.__class__.__name__ + '__' + self.plans_manager.plans_name" in text and "f'fold_{fold}'" in text
    assert f"'{layout.VALIDATION}'" in source(nnUNetTrainer.perform_actual_validation)
    assert f"'{layout.SUMMARY}'" in source(nnUNetTrainer.perform_actual_validation)
    assert f'"{layout.DEBUG}"' in source(nnUNetTrainer._save_debug_information)
    assert f'"{layout.SPLITS}"' in source(nnUNetTrainer.do_split)


def test_the_default_split():
    assert "generate_crossval_split(all_keys_sorted, seed=12345, n_splits=5)" in source(nnUNetTrainer.do_split)
    folds = generate_crossval_split([f"case_{number}" for number in range(10)], seed=12345, n_splits=5)
    assert len(folds) == 5 and set(folds[0]) == {"train", "val"}


def test_the_preprocessed_files():
    text = source(nnunet_dataset)
    assert ".b2nd" in text and "_seg" in text
    assert parameters(nnunet_dataset.infer_dataset_class) == ["folder"]
    assert layout.REFERENCES in source(nnUNetTrainer)


def test_the_logger():
    text = source(nnunet_logger)
    for key in ("mean_fg_dice", "dice_per_class_or_region", "val_losses"):
        assert key in text
    loggers = [each for _, each in inspect.getmembers(nnunet_logger, inspect.isclass) if hasattr(each, "get_value")]
    assert loggers and all(len(parameters(each.log)) == 4 and len(parameters(each.get_value)) == 3 for each in loggers)


def test_the_plans():
    plans = {
        "plans_name": "P",
        "configurations": {
            "2d": {"architecture": {"network_class_name": "n", "arch_kwargs": {}}, "batch_size": 2},
            "2d_own": {"inherits_from": "2d", "architecture": {"network_class_name": "m", "arch_kwargs": {}}},
        },
    }
    found = PlansManager(plans).get_configuration("2d_own")
    assert found.configuration["batch_size"] == 2  # inherited, while a key of the same name is replaced as a whole
    assert (found.network_arch_class_name, found.network_arch_init_kwargs) == ("m", {})


def test_deep_supervision_goes_by_strides_and_the_decoders_switch():
    assert "pool_op_kernel_sizes" in source(nnUNetTrainer._get_deep_supervision_scales)
    assert "mod.decoder.deep_supervision = enabled" in source(nnUNetTrainer.set_deep_supervision_enabled)


@pytest.mark.parametrize("stock", [PlainConvUNet, ResidualEncoderUNet])
def test_the_stock_networks_parts(stock):
    arguments = unet_arguments(2, 3, 4)
    if stock is ResidualEncoderUNet:
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    network = stock(**arguments)
    encoder, decoder = network.encoder, network.decoder
    for name in ("stages", "output_channels", "strides", "conv_op", "kernel_sizes", "conv_bias", "norm_op",
                 "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs"):  # fmt: skip
        assert hasattr(encoder, name), name
    assert len(decoder.stages) == len(decoder.transpconvs) == len(decoder.seg_layers) == 2
    assert len(decoder.stages[0].convs) >= 1
    first = encoder.stages[0]
    stage = first[0] if isinstance(first, torch.nn.Sequential) else first
    assert hasattr(stage, "convs") or hasattr(stage, "blocks")
    assert network.compute_conv_feature_map_size((32, 32)) > 0


def test_the_planners_topology():
    assert parameters(get_pool_and_conv_props) == ["spacing", "patch_size", "min_feature_map_size", "max_numpool"]
    _, strides, kernels, patch, _ = get_pool_and_conv_props([1.0, 1.0], [64, 64], 4, 999999)
    assert len(strides) == len(kernels) == 5 and list(patch) == [64, 64]


def test_the_fingerprints_samples():
    name = "num_foreground_voxels_for_intensitystats"
    assert f"self.{name}" in source(DatasetFingerprintExtractor.run)
    assert parameters(DatasetFingerprintExtractor.__init__)[1:3] == ["dataset_name_or_id", "num_processes"]


def test_the_losses_and_the_learning_rate():
    for loss in (DC_and_CE_loss, DC_and_BCE_loss):
        assert {"weight_ce", "weight_dice", "dice_class"} <= set(parameters(loss.__init__))
    assert {"batch_dice", "do_bg", "smooth", "ddp"} <= set(parameters(MemoryEfficientSoftDiceLoss.__init__))
    assert "exponent" in parameters(PolyLRScheduler.__init__)


def test_the_readers():
    content = {"file_ending": ".png", "channel_names": {"0": "R"}, "labels": {"background": 0}}
    reader = determine_reader_writer_from_dataset_json(content, None, False)()
    assert parameters(reader.read_seg) == ["seg_fname"] and parameters(reader.read_images) == ["image_fnames"]


def test_the_predictors_parts_for_routing_maps():
    constructor = parameters(nnUNetPredictor.__init__)
    assert {"tile_step_size", "use_mirroring", "device", "allow_tqdm"} <= set(constructor)
    text = source(nnUNetPredictor)
    # the tiles, their Gaussian and their mirror images are averaged in routing_maps/window.py as they are here
    for part in (
        "pad_nd_image(input_image, self.configuration_manager.patch_size,",
        "compute_gaussian(tuple(self.configuration_manager.patch_size), sigma_scale=1. / 8,",
        "compute_steps_for_sliding_window(image_size, self.configuration_manager.patch_size,",
        "itertools.combinations(mirror_axes, i + 1)",
        "self.allowed_mirroring_axes if self.use_mirroring else None",
    ):
        assert part in text, part
    assert parameters(compute_steps_for_sliding_window) == ["image_size", "tile_size", "tile_step_size"]
    text = source(convert_predicted_logits_to_segmentation_with_correct_shape)
    for part in (
        "configuration_manager.resampling_fn_probabilities(predicted_logits,",
        "properties_dict['shape_after_cropping_and_before_resampling']",
        "segmentation, properties_dict['bbox_used_for_cropping'])",
        "transpose(plans_manager.transpose_backward)",
    ):
        assert part in text, part


def test_the_predictor_takes_one_array():
    assert parameters(nnUNetPredictor.predict_single_npy_array)[1:] == [
        "input_image", "image_properties", "segmentation_previous_stage", "output_file_truncated",
        "save_or_return_probabilities",
    ]  # fmt: skip
    # what the readers say of images without a third axis, see predictor.py
    assert "{'spacing': (999, 1, 1)}" in source(NaturalImage2DIO)
    assert "max_spacing * 999, *list(spacings[-1])[::-1]" in source(SimpleITKIO)
    assert {"RGBTo01Normalization", "CTNormalization", "NoNormalization"} <= set(vars(default_normalization_schemes))


def test_what_nnunet_imports_and_unpickles():
    text = source(get_network_from_plans)
    # untrusted.py checks these names, and finds the network in the same way
    for part in (
        "pydoc.locate(architecture_kwargs[ri])", "pydoc.locate(network_class)",
        "'dynamic_network_architectures.architectures')", "nw_class(",
    ):  # fmt: skip
        assert part in text, part
    assert "torch.load" in source(nnUNetPredictor.initialize_from_trained_model_folder)


def test_the_augmenters():
    assert {"num_processes", "num_cached_per_queue", "seeds", "pin_memory"} <= set(
        parameters(MultiThreadedAugmenter.__init__)
    )


def test_pretrained_weights(tmp_path):
    network = PlainConvUNet(**unet_arguments(2, 3, 4))
    other = {key: value + 1 for key, value in network.state_dict().items()}
    torch.save({layout.WEIGHTS_KEY: other}, tmp_path / "start.pth")  # no other key is needed
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_pretrained_weights(network, tmp_path / "start.pth")
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key] if ".seg_layers." in key else other[key])
    del other["encoder.stages.0.0.convs.0.conv.weight"]
    torch.save({layout.WEIGHTS_KEY: other}, tmp_path / "start.pth")
    with pytest.raises(AssertionError, match="missing in the pretrained model weights"):
        load_pretrained_weights(network, tmp_path / "start.pth")


def test_the_table_in_contributing_has_every_test_of_this_file():
    rows = re.findall(r"^\| .* \| `(test_\w+)` \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    tests = [name for name in globals() if name.startswith("test_")]
    assert rows == tests[:-1]
