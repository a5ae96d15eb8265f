import json

import pytest
import torch

from nnunetv2_xattnres import cli
from nnunetv2_xattnres.benchmark import check
from nnunetv2_xattnres.benchmark.check.items import Item


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scaling"], "does not go with --scaling"),
        (["--compile", "--threads", "1"], "does not go with --compile, --threads"),
        (["--case", "unet-2d"], "measures clinicdb-2d, volume-3d, emcad-b2 and not unet-2d"),
        (["--minutes", "0"], "give more than 0"),
        (["--minutes", "nan"], "give more than 0"),
        (["--json", "missing-folder/check.json"], "its folder does not exist"),
        (["--kernel", "fast"], "unknown kernel"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(check, "run_items", lambda *_: pytest.fail("it began"))
    assert cli.main(["bench", "--check", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_minutes_are_for_the_check(capsys):
    assert cli.main(["bench", "--minutes", "3"]) == 2
    assert "--minutes is for --check" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(capsys):
    assert cli.main(["bench", "--check", "--device", "cuda"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_exit_code_and_json(functions, monkeypatch, tmp_path, capsys):
    def items(device, kernel, networks, places):
        assert (device, kernel, networks) == ("cpu", "cuda", ["emcad-b2"])
        return [Item("a", "check_functions:good", after=()), Item("b", "check_functions:fails", after=())]

    monkeypatch.setattr(check, "items_for", items)
    file = tmp_path / "check.json"
    assert cli.main(["bench", "--check", "--case", "emcad-b2", "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("A rehearsal on the CPU") and "\nFAILED: b (failed)\n" in out
    content = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["exit_code"] == 1 and content["verdict"] == "FAILED: b (failed)"
    assert [(row["name"], row["state"]) for row in content["rows"]] == [("a", "done"), ("b", "failed")]
    assert content["rows"][0]["figures"]["nan"] == "nan" and content["rows"][1]["log"]


def test_an_interrupted_check_keeps_what_was_found(functions, monkeypatch, tmp_path, capsys):
    def interrupted(items, budget, room):
        yield next(run_items(items, budget, room))
        raise KeyboardInterrupt

    run_items = check.run_items
    monkeypatch.setattr(check, "run_items", interrupted)
    monkeypatch.setattr(check, "items_for", lambda *_: [Item(name, "check_functions:good", after=()) for name in "ab"])
    file = tmp_path / "check.json"
    assert cli.main(["bench", "--check", "--json", str(file)]) == 130
    content = json.loads(file.read_text(encoding="utf-8"))
    assert [row["name"] for row in content["rows"]] == ["a"] and content["exit_code"] == 130
    assert "Interrupted: what is not here was not done." in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_check_on_a_cpu(tmp_path, capsys):
    file = tmp_path / "check.json"
    arguments = ["bench", "--check", "--case", "clinicdb-2d", "--minutes", "9", "--json", str(file)]
    code = cli.main(arguments)
    out = capsys.readouterr().out
    assert code == 0, out
    assert "\nAll 9 items are done, and none is wrong.\n" in out
    assert "computed by plain torch in " in out or "computed by Triton's interpreter in " in out
    rows = {row["name"]: row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]}
    for trainer in ("nnUNetTrainer", "nnUNetTrainer_XAttnRes"):
        assert len(rows[trainer]["figures"]["epochs"]) == 2 and trainer in out
    assert rows["clinicdb-2d compiled"]["figures"]["step"]["ratio"] > 0
