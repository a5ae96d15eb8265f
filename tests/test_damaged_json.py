"""Every command names a JSON file that it cannot use in one line, says what to do, and exits with 2."""

import json
import shutil
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
