"""Consoles that know few letters (Windows: cp1252 and the like): no command ends in a UnicodeEncodeError."""

import io
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from without_posix import run

from nnunetv2_xattnres import cli
from nnunetv2_xattnres.cli import COMMANDS, main
from nnunetv2_xattnres.dataset_conversion.command import DATASETS

HELP = [["-h"], *([name, "-h"] for name in COMMANDS), *(["convert", dataset.key, "-h"] for dataset in DATASETS)]


narrow = pytest.mark.parametrize("encoding", ["cp1252", "ascii"])


def printed(words, monkeypatch, encoding):
    """What a command prints on a console of that encoding."""
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", console)
        assert main(words) == 0
    console.flush()
    return console.buffer.getvalue().decode(encoding)


@narrow
def test_help_of_every_command(encoding):
    code = f"from nnunetv2_xattnres.cli import main\nfor words in {HELP!r}:\n"
    code += "    try:\n        main(words)\n    except SystemExit as end:\n        assert end.code == 0, words"
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"}
    done = run(code, env=environment, encoding=encoding)
    assert done.returncode == 0 and done.stdout.count("usage: ") == len(HELP), done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", "\\u0394 \\u22120.4 \\u809d\\u81d3 \u00b1"),
        ("ascii", "\\u0394 \\u22120.4 \\u809d\\u81d3 \\xb1"),
        ("utf-8", "\u0394 \u22120.4 \u809d\u81d3 \u00b1"),
    ],
)
def test_what_a_command_prints(monkeypatch, encoding, shown):
    module = SimpleNamespace(add_arguments=lambda parser: None, run=lambda args: print("Δ −0.4 肝臓 ±"))
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    assert printed(["doctor"], monkeypatch, encoding).splitlines() == [shown]


@narrow
def test_names_of_the_users_classes_and_folders(tmp_path, monkeypatch, encoding):
    for name in ("labelsTs", "予測"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / name / "a.png")
    dataset = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "肝臓": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    words = ["evaluate", str(tmp_path / "labelsTs"), str(tmp_path / "予測"), "--csv", str(tmp_path / "肝.csv")]
    assert "\\u809d\\u81d3" in printed(words, monkeypatch, encoding)
    assert "肝臓" in (tmp_path / "肝.csv").read_text(encoding="utf-8")
