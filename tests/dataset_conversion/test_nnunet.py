"""nnU-Net accepts what the converters write: its integrity check, its preprocessing, a short training."""

import copy
import json
from pathlib import Path

import dataset_phantoms as phantoms
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_xattnres.dataset_conversion.colondb import ColonDB
from nnunetv2_xattnres.dataset_conversion.isic2017 import ISIC2017
from nnunetv2_xattnres.dataset_conversion.synapse import Synapse

pytestmark = pytest.mark.slow
CONFIGURATION = {"502": "2d", "503": "2d", "504": "3d_fullres"}


@pytest.fixture(scope="module")
def prepared(module_nnunet, tmp_path_factory):
    """The three sets converted, and planned and preprocessed by one command, which finds nothing to complain of."""
    source = tmp_path_factory.mktemp("source")
    colondb = phantoms.colondb_original(source / "colondb", [*range(34, 44), *range(56, 64)])
    ColonDB(split="sequence").convert(colondb, raw=module_nnunet.raw)
    ISIC2017().convert(phantoms.isic2017(source / "isic"), raw=module_nnunet.raw)
    volumes = phantoms.synapse(source / "synapse", (5, 6, 7, 9, 10, 1), size=(24, 20, 16))
    Synapse().convert(volumes, raw=module_nnunet.raw)
    done = module_nnunet.run(
        *("nnUNetv2_plan_and_preprocess", "-d", *CONFIGURATION, "-c", "2d", "3d_fullres"),
        *("--verify_dataset_integrity", "-npfp", "1", "-np", "1", "1"),
    )
    assert done.stdout.count("verify_dataset_integrity Done") == 3
    assert "WARNING" not in done.stdout.upper()
    return module_nnunet


def shrink(folder, configuration):
    """Add a configuration that inherits: three stages, few features, a patch of 16 pixels along every axis.

    With two stages there is one output, for which nnU-Net divides its loss by zero.
    """
    path = folder / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    original = plans["configurations"][configuration]
    architecture = copy.deepcopy(original["architecture"])
    keywords = architecture["arch_kwargs"]
    keywords["n_stages"], keywords["features_per_stage"] = 3, [4, 8, 8]
    for name in ("kernel_sizes", "strides", "n_conv_per_stage"):
        keywords[name] = keywords[name][:3]
    keywords["n_conv_per_stage_decoder"] = keywords["n_conv_per_stage_decoder"][:2]
    plans["configurations"]["small"] = {
        "inherits_from": configuration,
        "batch_size": 2,
        "patch_size": [16] * len(original["patch_size"]),
        "architecture": architecture,
    }
    path.write_text(json.dumps(plans))


@pytest.mark.parametrize(("number", "configuration"), CONFIGURATION.items())
def test_nnunets_trainer_validates_on_the_split_of_the_conversion(prepared, number, configuration, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(prepared.root / name))
    (folder,) = prepared.preprocessed.glob(f"Dataset{number}_*")
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer({**plans, "continue_training": False}, configuration, 0, dataset, torch.device("cpu"))
    _, validated = trainer.do_split()
    assert set(validated) == fold_0(prepared, folder.name)


def test_volumes_train_in_3d(prepared):
    (folder,) = prepared.preprocessed.glob("Dataset504_*")
    shrink(folder, "3d_fullres")
    prepared.environment["nnUNet_extTrainer"] = str(Path(__file__).parents[1] / "short_trainers")
    prepared.run("nnUNetv2_train", 504, "small", 0, "-tr", "nnUNetTrainer_XAttnRes_Short", "-device", "cpu")
    model = prepared.results / folder.name / "nnUNetTrainer_XAttnRes_Short__nnUNetPlans__small"
    architecture = json.loads((model / "plans.json").read_text())["configurations"]["small"]["architecture"]
    assert architecture["network_class_name"] == "nnunetv2_xattnres.architectures.XAttnResUNet"
    assert architecture["arch_kwargs"]["conv_op"] == "torch.nn.modules.conv.Conv3d"
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    validated = {case["reference_file"].rsplit("/", 1)[1].split(".")[0] for case in summary["metric_per_case"]}
    assert validated == fold_0(prepared, folder.name)


def fold_0(nnunet, dataset):
    """Names of the cases that the converter's first fold validates on."""
    return set(json.loads((nnunet.raw / dataset / "splits_final.json").read_text())[0]["val"])
