"""The grid of a study, its folder, and the commands of its cells."""

import json
import subprocess
import sys
import zipfile

import pytest

from nnunetv2_xattnres.ablation.commands import Device, as_typed, environment, train_command, usable_checkpoint
from nnunetv2_xattnres.ablation.grid import Cell, expand, parse_folds, parse_names
from nnunetv2_xattnres.ablation.listing import duration, summary, table
from nnunetv2_xattnres.ablation.local import devices
from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.planning import plan_study
from nnunetv2_xattnres.ablation.study import Study, write_json
from nnunetv2_xattnres.ablation.trainer_names import check_trainer
from nnunetv2_xattnres.errors import InputError


def found(*variants, network="unet"):
    return {f"2d_{name}": {"variant": name, "network": network, "studies": ["skip"]} for name in variants}


def test_the_grid_compares_every_variant_before_the_next_seed():
    cells = expand(found("baseline", "both"), "T", [0, 1], range(2))
    assert [cell.name for cell in cells[:4]] == [
        "2d_baseline__fold0__seed0",
        "2d_both__fold0__seed0",
        "2d_baseline__fold1__seed0",
        "2d_both__fold1__seed0",
    ]
    assert len({cell.name for cell in cells}) == 8 and cells[-1].seed == 1
    assert [Cell.from_json(json.loads(json.dumps(cell.to_json()))) for cell in cells] == cells


def test_emcad_is_trained_by_the_partner_of_the_trainer():
    both = {**found("both"), "2d_emcad_both": {"variant": "both", "network": "emcad", "studies": ["backbone"]}}
    trainers = {
        given: [cell.trainer for cell in expand(both, given, [0], [0])]
        for given in ("nnUNetTrainer_XAttnRes", "nnUNetTrainer_XAttnRes_Paper", "nnUNetTrainer")
    }
    assert trainers == {
        "nnUNetTrainer_XAttnRes": ["nnUNetTrainer_XAttnRes", "nnUNetTrainer_EMCAD"],
        "nnUNetTrainer_XAttnRes_Paper": ["nnUNetTrainer_XAttnRes_Paper", "nnUNetTrainer_EMCAD_Paper"],
        "nnUNetTrainer": ["nnUNetTrainer", "nnUNetTrainer"],
    }


def test_options_are_parsed_and_their_errors_say_what_was_given():
    assert parse_names(" skip, position,skip", "--study") == ["skip", "position"]
    assert parse_folds("0,3,all") == [0, 3, "all"]
    with pytest.raises(InputError, match="'x'"):
        parse_folds("0,x")
    with pytest.raises(InputError, match="--study is empty"):
        parse_names(",", "--study")


def test_devices_are_the_visible_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert devices(None) == [Device(1, "2"), Device(1, "5")]
    assert devices(1) == [Device(1, "2")]
    assert devices(0) == [Device()]
    with pytest.raises(InputError, match="shows 2 GPU"):
        devices(3)


def test_the_training_continues_validates_or_is_left_alone_by_what_is_there(stubs):
    study = stubs.study("both")
    (cell,) = study.cells
    folder = study.fold_folder(cell)
    start = ["nnUNetv2_train", "Dataset001_Stub", "2d_both", "0", "-tr", "T", "-p", "P", "-device"]
    assert train_command(study, cell, Device()) == [*start, "cpu"]
    assert train_command(study, cell, Device(4)) == [*start, "cuda", "-num_gpus", "4"]
    folder.mkdir(parents=True)
    for name, extra in (("best", "--c"), ("latest", "--c"), ("final", "--val")):
        zipfile.ZipFile(folder / f"checkpoint_{name}.pth", "w").close()
        assert usable_checkpoint(folder).name == f"checkpoint_{name}.pth"
        assert train_command(study, cell, Device()) == [*start, "cpu", extra]
    (folder / "validation").mkdir()
    (folder / "validation" / "summary.json").touch()
    assert train_command(study, cell, Device()) is None


def test_a_checkpoint_that_was_cut_off_is_put_aside(stubs):
    study = stubs.study("both")
    folder = study.fold_folder(study.cells[0])
    folder.mkdir(parents=True)
    zipfile.ZipFile(folder / "checkpoint_best.pth", "w").close()
    (folder / "checkpoint_latest.pth").write_bytes(b"PK\x03\x04 half of a checkpoint")
    assert usable_checkpoint(folder).name == "checkpoint_best.pth"
    assert (folder / "checkpoint_latest.damaged").exists()


def test_a_cell_has_its_seed_its_results_and_our_hook_beside_the_users(stubs, monkeypatch):
    study = stubs.study("both", seeds=(3,))
    monkeypatch.setenv("nnUNet_extTrainer", "their/trainers")
    variables = environment(study, study.cells[0], Device(1, "2"))
    assert variables["XATTNRES_SEED"] == "3" and variables["CUDA_VISIBLE_DEVICES"] == "2"
    assert variables["nnUNet_results"].endswith("results/seed_3")
    ours, theirs = variables["nnUNet_extTrainer"].split(":")
    assert ours.endswith("hook") and theirs == "their/trainers"
    assert as_typed(["a", "b c"], {"X": "1 2"}) == "X='1 2' a 'b c'"


# --- planning --------------------------------------------------------------------------------------------------------


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    """A preprocessed data set as the planner leaves it, with a small U-Net."""
    folder = tmp_path / "preprocessed" / "Dataset007_Plans"
    folder.mkdir(parents=True)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    torch_conv, torch_norm = "torch.nn.modules.conv.Conv2d", "torch.nn.modules.instancenorm.InstanceNorm2d"
    kwargs = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": torch_conv,
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": torch_norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 32],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": True,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    plans = {
        "dataset_name": folder.name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "configurations": {"2d": configuration},
    }
    dataset = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def plan(folder, **changes):
    asked = {
        "dataset": "7",
        "configuration": "2d",
        "base_plans": "nnUNetPlans",
        "plans": "nnUNetXAttnResPlans",
        "studies": ["skip"],
        "trainer": "nnUNetTrainer_XAttnRes",
        "folds": [0],
        "seeds": [0],
        **changes,
    }
    study = plan_study(folder, **asked)
    study.save()
    return study


def test_a_study_is_planned_and_grows_without_losing_what_it_has(preprocessed, tmp_path):
    study = plan(tmp_path / "study")
    assert [cell.variant for cell in study.cells] == ["baseline", "noskip", "replace", "both"]
    written = json.loads((preprocessed / "nnUNetXAttnResPlans.json").read_text())["configurations"]
    assert {cell.configuration for cell in study.cells} <= set(written)
    study.update_state(study.cells[0], state="failed", error="x")

    more = plan(tmp_path / "study", studies=["skip", "position"], seeds=[0, 1])
    assert len(more.cells) == 12 and [cell.seed for cell in more.cells] == [0] * 6 + [1] * 6
    assert more.read_state(more.cells[0])["state"] == "failed"
    both = {cell.variant: cell.study for cell in more.cells}
    assert both["noskip"] == ("skip", "position") and both["baseline"] == ("skip",)
    # a start that asks for less leaves the rest in the study
    assert plan(tmp_path / "study").cells == more.cells
    assert Study.load(tmp_path / "study").cells == more.cells
    networks = {cell.network for cell in plan(tmp_path / "study", studies=["all"]).cells}
    assert networks == {"unet", "emcad", "paper-unet"}


def test_variants_that_are_planned_already_are_taken_as_they_are(preprocessed, tmp_path):
    plan(tmp_path / "study")
    file = preprocessed / "nnUNetXAttnResPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d_both"]["batch_size"] = 7
    file.write_text(json.dumps(plans))
    # now without building anything: torch alone takes seconds to import
    code = "import sys\nfrom nnunetv2_xattnres.cli import main\n"
    code += f"code = main(['ablate', '7', '--seeds', '10', '--dry-run', '--output', {str(tmp_path / 'other')!r}])\n"
    code += "print(sorted({'torch', 'nnunetv2'} & set(sys.modules)), code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["40 cells: 40 pending", "[] 0"]
    assert json.loads(file.read_text()) == plans


def test_another_study_or_other_files_in_the_folder_are_refused(preprocessed, tmp_path):
    plan(tmp_path / "study")
    with pytest.raises(InputError, match="another study") as caught:
        plan(tmp_path / "study", trainer="nnUNetTrainer", plans="Others")
    assert len(caught.value.problems) == 2 and "nnUNetTrainer_XAttnRes" in str(caught.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not a study"):
        plan(tmp_path / "full")
    assert not (tmp_path / "full" / "study.json").exists()


def test_a_fold_that_the_splits_do_not_have_is_refused(preprocessed, tmp_path):
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": [], "val": []}]))
    with pytest.raises(InputError, match=r"--folds 1,4.*0 to 0"):
        plan(tmp_path / "study", folds=[0, 1, 4])
    assert not (tmp_path / "study").exists()
    with pytest.raises(InputError, match="the studies are skip"):
        plan(tmp_path / "study", studies=["skips"])


def test_a_trainer_that_is_not_there_stops_the_study_before_any_cell(preprocessed, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is it nnUNetTrainer_XAttnRes_Paper or"):
        plan(tmp_path / "study", trainer="nnUNetTrainer_XAttnRes_Papre")
    assert not (tmp_path / "study").exists()
    check_trainer("nnUNetTrainer_5epochs")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "own.py").write_text("class nnUNetTrainer_Own(nnUNetTrainer):\n    pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
    check_trainer("nnUNetTrainer_Own")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": 2, "b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_broken_study_is_named(tmp_path):
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"study\.json cannot be read"):
        Study.load(tmp_path)


# --- listing ---------------------------------------------------------------------------------------------------------


def test_the_listing_fits_the_terminal_and_counts_the_states():
    cells = expand(found("baseline", "both"), "T", [0], [0])
    seen = [
        Observation(cells[0], "complete", {"hours": 2.5}, dice=0.8765),
        Observation(cells[1], "failed", {"hours": 0.01}, detail="KeyError:\n a very long " + "reason " * 40),
    ]
    lines = table(seen, width=100).splitlines()
    assert max(map(len, lines)) <= 100 and lines[3].endswith("...")
    assert lines[2].split() == ["2d_baseline__fold0__seed0", "complete", "0.8765", "2", "h", "30", "min"]
    assert summary(seen) == "2 cells: 1 complete, 1 failed"
    assert [duration(hours) for hours in (None, 0.01, 0.5, 25.0)] == ["", "36 s", "30 min", "25 h 00 min"]
