"""Every command names a JSON file that it cannot use in one line, says what to do, and exits with 2."""

import json
import shutil
from functools import reduce
from pathlib import Path

import pytest

from nnunetv2_xattnres.cli import main

FORMER = Path(__file__).parent / "former"
CELL = "cells/2d_both__fold0__seed0"
DAMAGE = {
    "cut": b'{"labels": {"a": 1',
    "empty": b"",
    "no text": b"\xff\xfe\x00\x01",
    "nested": b"[" * 100_000,
    "list": b"[]",
    "null": b"null",
    "no keys": b"{}",
    "types": json.dumps(
        dict.fromkeys(("labels", "channel_names", "configurations", "cases", "cells", "mean", "state"), 5)
    ).encode(),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A raw and a preprocessed data set, a study, and two folders of masks, without images."""
    monkeypatch.chdir(tmp_path)
    for kind in ("raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
        (tmp_path / kind / "Dataset011_Discs").mkdir(parents=True)
        shutil.copy(FORMER / "dataset.json", tmp_path / kind / "Dataset011_Discs")
    for name in ("nnUNetPlans.json", "nnUNetXAttnResPlans.json"):
        shutil.copy(FORMER / name, tmp_path / "preprocessed" / "Dataset011_Discs")
    shutil.copytree(FORMER / "study", tmp_path / "study")
    for name in ("labels", "predictions"):
        (tmp_path / name).mkdir()
    shutil.copy(FORMER / "dataset.json", tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("plan 11 --study skip", "preprocessed/Dataset011_Discs/nnUNetPlans.json"),
        ("plan 11 --study skip", "preprocessed/Dataset011_Discs/nnUNetXAttnResPlans.json"),
        ("plan 11 --study skip --variants New", "preprocessed/Dataset011_Discs/dataset.json"),
        ("ablate 11 --dry-run", "preprocessed/Dataset011_Discs/nnUNetPlans.json"),
        ("ablate 11 --output study --status", "study/study.json"),
        ("ablate 11 --output study --status", f"study/{CELL}/cell.json"),
        ("ablate 11 --output study --status", f"study/{CELL}/scores.json"),
        ("ablate 11 --output study --report", f"study/{CELL}/scores.json"),
        ("evaluate labels predictions", "dataset.json"),
        ("inspect 11", "raw/Dataset011_Discs/dataset.json"),
    ],
)
def test_a_damaged_file_is_one_line(files, capsys, command, file, damage):
    (files / file).write_bytes(DAMAGE[damage])
    before = sorted(files.rglob("*"))
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert Path(file).name in error and error.count("\n") == 1 and len(error) < 600
    assert sorted(files.rglob("*")) == before


def test_a_score_without_its_numbers_is_named(files, capsys):
    path = files / "study" / CELL / "scores.json"
    scores = json.loads(path.read_text())
    del scores["cases"][1]["hd95"]
    path.write_text(json.dumps(scores))
    assert main(["ablate", "11", "--output", "study", "--report"]) == 2
    assert "entry 1 of cases without case, label, dice, iou, hd95: remove it" in capsys.readouterr().err


PLANS = "preprocessed/Dataset011_Discs/nnUNetPlans.json"
EMCAD = "plan 11 --study skip --variants New --network emcad"
UNET = "plan 11 --study skip --variants New"
GONE = object()


@pytest.mark.parametrize(
    ("command", "file", "keys", "value", "said"),
    [
        (UNET, PLANS, ["configurations", "2d", "patch_size"], GONE, "2d of nnUNetPlans has no patch_size"),
        (UNET, PLANS, ["configurations", "2d", "patch_size"], [32], "has the patch_size [32]"),
        (UNET, PLANS, ["configurations", "2d", "data_identifier"], GONE, "has no data_identifier"),
        (EMCAD, PLANS, ["configurations", "2d", "normalization_schemes"], GONE, "has no normalization_schemes"),
        (UNET, PLANS, ["configurations", "2d", "inherits_from"], ["2d"], "inherits from ['2d']: not usable"),
        (UNET, PLANS, ["configurations", "2d", "architecture"], "x", "architecture that is no object"),
        (UNET, PLANS, ["configurations", "2d", "architecture", "arch_kwargs"], GONE, "has no arch_kwargs"),
        (UNET, PLANS, ["configurations", "2d", "architecture", "network_class_name"], GONE, "no network_class_name"),
        (
            UNET,
            PLANS,
            ["configurations", "2d", "architecture", "arch_kwargs", "features_per_stage"],
            GONE,
            "features_per_stage None for U-Net",
        ),
        (UNET, PLANS, ["label_manager"], "Foo", "New with the label_manager Foo"),
        ("ablate 11 --output study --status", "study/study.json", ["cells"], ["x"], "cell 0 is a text"),
        ("ablate 11 --output study --status", "study/study.json", ["cells", 1, "seed"], "x", "cell 1 has a text under"),
        ("ablate 11 --output study --status", "study/study.json", ["cells", 1, "fold"], [0], "cell 1 has the fold [0]"),
        ("ablate 11 --output study --status", "study/study.json", ["plans"], 5, "has a number under plans"),
        ("ablate 11 --output study --status", f"study/{CELL}/cell.json", ["hours"], "two", "a text under hours"),
        ("ablate 11 --output study --status", f"study/{CELL}/cell.json", ["error"], 5, "a number under error"),
        ("ablate 11 --output study --status", f"study/{CELL}/scores.json", ["mean", "dice"], "good", "under dice"),
        ("ablate 11 --output study --report", f"study/{CELL}/scores.json", ["cases", 1, "iou"], "good", "under iou"),
        ("ablate 11 --output study --report", f"study/{CELL}/scores.json", ["cases", 1, "label"], "x", "the label x"),
        ("ablate 11 --output study --report", f"study/{CELL}/scores.json", ["convention"], "x", "the convention x"),
    ],
)
def test_an_entry_that_cannot_be_used_is_one_line(files, capsys, command, file, keys, value, said):
    content = json.loads((files / file).read_text())
    *outer, last = keys
    place = reduce(lambda inside, key: inside[key], outer, content)
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    (files / file).write_text(json.dumps(content))
    before = sorted(files.rglob("*"))
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 600
    assert sorted(files.rglob("*")) == before
