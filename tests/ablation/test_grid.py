"""The grid of a study, its folder, and the commands of its cells."""

import json
import zipfile

import pytest

from nnunetv2_xattnres.ablation.commands import Device, as_typed, environment, train_command, usable_checkpoint
from nnunetv2_xattnres.ablation.grid import Cell, expand, parse_folds, parse_names
from nnunetv2_xattnres.ablation.listing import duration, summary, table
from nnunetv2_xattnres.ablation.local import devices
from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import write_json


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
    assert [Cell.from_json(json.loads(json.dumps(cell.to_json())), "a file") for cell in cells] == cells


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
    for values in (["skip", "position", "skip"], [" skip, position,skip"], ["skip,", "position"]):
        assert parse_names(values, "--study") == ["skip", "position"]
    assert parse_folds(["0", "3", "all"]) == parse_folds(["0,3,all"]) == [0, 3, "all"]
    with pytest.raises(InputError, match="'x'"):
        parse_folds(["0,x"])
    with pytest.raises(InputError, match="--study is empty"):
        parse_names([","], "--study")


def test_devices_are_the_visible_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert devices(None) == [Device(1, "2"), Device(1, "5")]
    assert devices(1) == [Device(1, "2")]
    assert devices(0) == [Device()]
    for number in (3, -1):
        with pytest.raises(InputError, match=f"--gpus {number}: this machine shows 2 GPU"):
            devices(number)


def test_a_gpu_that_is_named_twice_runs_two_cells_at_once(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,0")
    assert devices(None) == [Device(1, "0"), Device(1, "0")]


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
