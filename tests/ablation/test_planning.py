"""Planning a study: which plans it takes, what it refuses, and what it writes."""

import json
import shutil
import subprocess
import sys
import threading

import pytest
from without_posix import WITHOUT, run

from nnunetv2_xattnres.ablation.cell import run_cell
from nnunetv2_xattnres.ablation.commands import Device, evaluate_command
from nnunetv2_xattnres.ablation.planning import Request, plan_study
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.ablation.trainer_names import check_trainer
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.studies import make_variants


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    """A preprocessed data set as the planner leaves it, with a small U-Net."""
    folder = tmp_path / "preprocessed" / "Dataset007_Plans"
    (folder / "nnUNetPlans_2d").mkdir(parents=True)
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
    for number in range(6):
        (folder / "nnUNetPlans_2d" / f"case_{number}.b2nd").write_bytes(b"image")
        (folder / "nnUNetPlans_2d" / f"case_{number}_seg.b2nd").write_bytes(b"mask")
    (folder / "gt_segmentations").mkdir()
    (folder / "gt_segmentations" / "case_0.nii.gz").write_bytes(b"mask")
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
    study = plan_study(folder, Request(**asked))
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
    assert networks == {"unet", "emcad", "paper-unet", "unet-3-plus", "ssformer"}


def test_the_rules_for_the_scores_are_part_of_a_study(preprocessed, tmp_path):
    folder = tmp_path / "study"
    study = plan(folder, tolerance=["a=3", "2.0mm"], missing="worst")
    loaded = Study.load(folder)
    assert (loaded.tolerance, loaded.missing) == (["2mm", "a=3mm"], "worst")
    command = " ".join(evaluate_command(loaded, study.cells[0], tmp_path, part=False))
    assert "--metric dice iou hd95 nsd --tolerance 2mm a=3mm --missing worst --overwrite" in command
    assert plan(folder, tolerance=["2", "a=3mm"], missing="worst").cells == study.cells  # the same in other words
    with pytest.raises(InputError, match="holds another study") as caught:
        plan(folder, tolerance=["4mm"])
    assert caught.value.problems == [
        "tolerance: it has 2mm a=3mm, and 4mm is requested",
        "missing: it has worst, and undefined is requested",
    ]


def test_a_study_without_rules_of_its_own_does_not_name_them(preprocessed, tmp_path):
    study = plan(tmp_path / "study")
    assert not {"tolerance", "missing"} & set(json.loads((tmp_path / "study" / "study.json").read_text()))
    command = evaluate_command(study, study.cells[0], tmp_path, part=False)
    assert not {"--metric", "--tolerance", "--missing"} & set(command)
    with pytest.raises(InputError, match="tolerance: it has none, and 2mm is requested"):
        plan(tmp_path / "study", tolerance=["2mm"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": ["2px"]}, "2px: distances are in mm here, write 2mm"),
        ({"tolerance": ["2mm"], "convention": "transunet"}, "2mm: distances are in pixels or voxels here, write 2px"),
        ({"tolerance": ["1", "liver=2"]}, "no class liver"),
        ({"tolerance": ["wide"]}, 'tolerance "wide" cannot be read'),
        ({"missing": "worst", "convention": "transunet"}, "contradicts the convention transunet"),
    ],
)
def test_rules_that_evaluate_would_refuse_are_refused_before_the_training(preprocessed, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        plan(tmp_path / "study", **changes)
    assert not (tmp_path / "study").exists() and not (preprocessed / "nnUNetXAttnResPlans.json").exists()


def test_ablate_has_the_options_of_evaluate(preprocessed, tmp_path, capsys):
    options = ["--seeds", "1", "--dry-run", "--output", str(tmp_path / "study")]
    assert main(["ablate", "7", *options, "--tolerance", "2mm", "liver=3mm"]) == 2
    assert "there is no class liver, the classes are a" in capsys.readouterr().err
    assert main(["ablate", "7", *options, "--tolerance", "2mm", "--missing", "worst"]) == 0


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


def change(file, configuration, **values):
    """Edit a configuration of a plans file, as a user does."""
    plans = json.loads(file.read_text())
    plans["configurations"][configuration].update(values)
    file.write_text(json.dumps(plans))


def test_missing_variants_are_added_to_those_with_options_of_their_own(preprocessed, tmp_path):
    make_variants(7, networks=["paper-unet"], studies=["skip"], input_size=[64, 96]).write()
    study = plan(tmp_path / "study", networks=["paper-unet"], studies=["skip", "position"])
    written = json.loads((preprocessed / "nnUNetXAttnResPlans.json").read_text())["configurations"]
    sizes = {name: found["architecture"]["arch_kwargs"].get("input_size") for name, found in written.items()}
    assert sizes["2d_paper_unet_both"] == sizes["2d_paper_unet_noskip"] == [64, 96]
    assert sizes["2d_paper_unet_encoder"] is sizes["2d_paper_unet_decoder"] is None
    assert {cell.configuration for cell in study.cells} == set(written) - {"2d"}


@pytest.mark.parametrize("studies", [["skip"], ["skip", "init"]])  # all variants are there; some are missing
def test_variants_of_other_plans_are_not_taken(preprocessed, tmp_path, studies):
    plan(tmp_path / "study")
    base = preprocessed / "nnUNetPlans.json"
    small = {**json.loads(base.read_text()), "plans_name": "nnUNetPlans_small"}
    (preprocessed / "nnUNetPlans_small.json").write_text(json.dumps(small))
    before = (preprocessed / "nnUNetXAttnResPlans.json").read_bytes()
    with pytest.raises(InputError, match=r"variants of nnUNetPlans, .* of nnUNetPlans_small are .* with --variants"):
        plan(tmp_path / "other", base_plans="nnUNetPlans_small", studies=studies)
    plan(tmp_path / "other", base_plans="nnUNetPlans_small", plans="Small", studies=studies)
    change(base, "2d", batch_size=1)
    with pytest.raises(InputError, match=r"configuration 2d is different") as caught:
        plan(tmp_path / "third", studies=studies)
    assert "not what nnUNetPlans" in str(caught.value) and "with --variants" in str(caught.value)
    assert (preprocessed / "nnUNetXAttnResPlans.json").read_bytes() == before
    assert not (tmp_path / "third").exists()


def test_variants_of_another_network_under_the_same_name_are_not_taken(preprocessed, tmp_path):
    plan(tmp_path / "study")
    with pytest.raises(InputError, match=r"variants of another network.* with --variants") as caught:
        plan(tmp_path / "other", networks=["resenc"])
    assert len(caught.value.problems) == 4
    assert caught.value.problems[1].startswith("configuration 2d_both has nnunetv2_xattnres.architectures.XAttnResUNet")


def test_a_study_does_not_go_on_with_changed_configurations(preprocessed, tmp_path):
    study = plan(tmp_path / "study", studies=["skip", "position"])
    file = preprocessed / "nnUNetXAttnResPlans.json"
    before = file.read_text()
    change(file, "2d_encoder", batch_size=7)
    with pytest.raises(InputError, match=r"changed after the study .* --output, or put .* back as") as caught:
        plan(tmp_path / "study", studies=["skip"])  # also where what has changed is not asked for
    assert caught.value.problems == ["configuration 2d_encoder is different"]
    plan(tmp_path / "other", studies=["skip", "position"])

    # nor does a cell that comes to its turn after the change
    states = {cell.variant: cell for cell in study.cells}
    assert run_cell(study, states["encoder"], Device(), threading.Event()) == "failed"
    assert "configuration 2d_encoder is different" in study.read_state(states["encoder"])["error"]

    plans = json.loads(before)
    del plans["configurations"]["2d_encoder"]
    file.write_text(json.dumps(plans))
    with pytest.raises(InputError, match="configuration 2d_encoder is missing"):
        plan(tmp_path / "study", studies=["skip"])
    file.write_text(before)
    assert plan(tmp_path / "study", studies=["skip"]).cells == study.cells


def test_a_study_of_a_version_without_digests_opens_and_gets_them(preprocessed, tmp_path):
    study = plan(tmp_path / "study")
    file = tmp_path / "study" / "study.json"
    content = json.loads(file.read_text())
    assert sorted(content.pop("digests")) == sorted({cell.configuration for cell in study.cells})
    file.write_text(json.dumps(content))
    assert Study.load(tmp_path / "study").digests == {}
    assert plan(tmp_path / "study").digests == study.digests
    change(preprocessed / "nnUNetXAttnResPlans.json", "2d_both", batch_size=7)
    with pytest.raises(InputError, match="configuration 2d_both is different"):
        plan(tmp_path / "study")


def test_a_dry_run_writes_nothing(preprocessed, tmp_path, capsys):
    def files():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    before = files()
    command = ["ablate", "7", "--output", str(tmp_path / "study"), "--dry-run"]
    assert main([*command, "--seeds", "2"]) == 0
    assert "8 cells: 8 pending" in capsys.readouterr().out and files() == before
    plan(tmp_path / "study")
    before = files()
    assert main([*command, "--seeds", "3", "--study", "skip,position"]) == 0
    assert "18 cells: 18 pending" in capsys.readouterr().out and files() == before


def test_a_dry_run_needs_nothing_of_posix(preprocessed, tmp_path):
    code = WITHOUT + "take_away()\nfrom nnunetv2_xattnres.cli import main\n"
    code += f"print(main(['ablate', '7', '--dry-run', '--seeds', '1', '--output', {str(tmp_path / 'study')!r}]))"
    done = run(code)
    assert done.stdout.splitlines()[-2:] == ["4 cells: 4 pending", "0"], done.stderr


def test_the_fold_all_needs_a_test_set(preprocessed, tmp_path):
    with pytest.raises(InputError, match=r"no imagesTs with labelsTs .* scores would be those of training cases"):
        plan(tmp_path / "study", folds=["all"])
    assert not (tmp_path / "study").exists() and not (preprocessed / "nnUNetXAttnResPlans.json").exists()
    for name in ("imagesTs", "labelsTs"):
        (tmp_path / "raw" / preprocessed.name / name).mkdir(parents=True)
        (tmp_path / "raw" / preprocessed.name / name / "case").touch()
    assert {cell.fold for cell in plan(tmp_path / "study", folds=["all"]).cells} == {"all"}


def test_data_that_are_not_preprocessed_stop_the_study(preprocessed, tmp_path):
    shutil.rmtree(preprocessed / "nnUNetPlans_2d")
    with pytest.raises(InputError, match=r"nnUNetv2_preprocess -d 7 -plans_name nnUNetPlans -c 2d$"):
        plan(tmp_path / "study")
    assert not (tmp_path / "study").exists() and not (preprocessed / "nnUNetXAttnResPlans.json").exists()


@pytest.mark.parametrize("place", ["/proc/study", "{}/file/study", "{}/file"])
def test_a_folder_that_cannot_be_made_is_named(preprocessed, tmp_path, capsys, place):
    (tmp_path / "file").touch()
    place = place.format(tmp_path)
    before = sorted(preprocessed.rglob("*"))
    assert main(["ablate", "7", "--output", place]) == 2
    error = capsys.readouterr().err
    assert place in error and "--output" in error
    assert sorted(preprocessed.rglob("*")) == before  # neither plans nor a split
    assert main(["ablate", "7", "--output", place, "--status"]) == 2
    assert f"there is no study in {place}" in capsys.readouterr().err


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
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_1"]}]))
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


# --- the data that all cells share -----------------------------------------------------------------------------------


def write_splits(preprocessed, train=("case_0", "case_1"), val=("case_2",)):
    fold = {"train": list(train), "val": list(val)}
    (preprocessed / "splits_final.json").write_text(json.dumps([fold, {"train": ["case_3"], "val": ["case_4"]}]))


def test_a_study_does_not_go_on_with_other_data(preprocessed, tmp_path):
    """Whatever of the data changes: no later start, and no cell that comes to its turn, goes into the same table."""
    write_splits(preprocessed)
    raw = tmp_path / "raw" / preprocessed.name
    study = plan(tmp_path / "study")
    description = json.loads((preprocessed / "dataset.json").read_text())
    changes = {
        "fold 0 of splits_final.json": lambda: write_splits(preprocessed, train=["case_0"]),
        "dataset.json": lambda: (preprocessed / "dataset.json").write_text(
            json.dumps({**description, "labels": {"background": 0, "b": 1}})
        ),
        "gt_segmentations": lambda: (preprocessed / "gt_segmentations" / "case_0.nii.gz").write_bytes(b"ksam"),
        "nnUNetPlans_2d": lambda: (preprocessed / "nnUNetPlans_2d" / "case_5.b2nd").unlink(),
        "imagesTs": lambda: [
            ((raw / name).mkdir(parents=True), (raw / name / "case_9.nii.gz").touch())
            for name in ("imagesTs", "labelsTs")
        ],
    }
    kept = tmp_path / "kept"
    shutil.copytree(preprocessed, kept)
    for name, change_it in changes.items():
        change_it()
        with pytest.raises(InputError, match=r"changed after the study .* --output") as caught:
            plan(tmp_path / "study", seeds=[0, 1])
        assert any(name in problem for problem in caught.value.problems)
        assert run_cell(study, study.cells[0], Device(), threading.Event()) == "failed"
        assert name in study.read_state(study.cells[0])["error"]
        shutil.rmtree(preprocessed)
        shutil.copytree(kept, preprocessed)
        shutil.rmtree(raw, ignore_errors=True)
    # a fold that no cell trains may change, and as it was before, the study goes on
    write_splits(preprocessed)
    splits = json.loads((preprocessed / "splits_final.json").read_text())
    (preprocessed / "splits_final.json").write_text(json.dumps(splits[:1]))
    assert len(plan(tmp_path / "study", seeds=[0, 1]).cells) == 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"train": ["case_0"', "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("\x00", "cannot be read as JSON"),
        ("{}", "is not a list of folds"),
        ("[]", "is not a list of folds"),
        ("[1]", "fold 0 is 1"),
        ('[{"train": ["case_0"]}]', "fold 0 has no list of names under val"),
        ('[{"train": "case_0", "val": ["case_1"]}]', "fold 0 has no list of names under train"),
        ('[{"train": ["case_0"], "val": []}]', "fold 0 has no case under val"),
        ('[{"train": ["case_0"], "val": ["case_77"]}]', "fold 0: 1 not in nnUNetPlans_2d, such as case_77"),
    ],
)
def test_a_split_that_cannot_be_used_is_named(preprocessed, tmp_path, capsys, content, says):
    (preprocessed / "splits_final.json").write_text(content)
    assert main(["ablate", "7", "--output", str(tmp_path / "study"), "--seeds", "1", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert says in error and "splits_final.json" in error and "delete it" in error


def test_the_split_is_made_before_the_first_cell_as_nnunet_makes_it(preprocessed, tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plan(tmp_path / "study", folds=[2])
    ours = json.loads((preprocessed / "splits_final.json").read_text())
    (preprocessed / "splits_final.json").unlink()
    trainer = nnUNetTrainer.__new__(nnUNetTrainer)
    trainer.fold, trainer.dataset_class, trainer.folder_with_segs_from_previous_stage = 2, None, None
    trainer.preprocessed_dataset_folder = str(preprocessed / "nnUNetPlans_2d")
    trainer.preprocessed_dataset_folder_base = str(preprocessed)
    trainer.print_to_log_file = lambda *_: None
    train, val = trainer.do_split()
    assert [ours[2]["train"], ours[2]["val"]] == [list(train), list(val)]
    assert json.loads((preprocessed / "splits_final.json").read_text()) == ours


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpus", "3"], "--gpus 3: this machine shows 0 GPU(s)"),
        (["--gpus", "-1"], "--gpus -1: this machine shows 0 GPU(s)"),
        (["--executor", "slurm", "--gpus", "-1"], "--gpus -1: give the GPUs of a cell"),
        (["--executor", "slurm"], "sbatch is not installed here"),
    ],
)
def test_missing_devices_are_named_before_anything_is_written(
    preprocessed, tmp_path, monkeypatch, capsys, options, says
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    assert main(["ablate", "7", "--output", str(tmp_path / "study"), "--seeds", "1", *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_too_few_cases_for_a_split_are_named(preprocessed, tmp_path):
    for number in range(3):
        (preprocessed / "nnUNetPlans_2d" / f"case_{number}.b2nd").unlink()
    with pytest.raises(InputError, match=r"has 3 cases, too few for nnU-Net's 5 folds"):
        plan(tmp_path / "study")
