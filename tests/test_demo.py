"""The demo: its drawings, its folder, its picture, and the whole of it in small."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_commands import code_of
from PIL import Image
from scipy.ndimage import label

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.demo.phantom import DATASET, draw_frame, write_dataset
from nnunetv2_xattnres.demo.picture import draw_picture
from nnunetv2_xattnres.demo.steps import Settings, run_demo
from nnunetv2_xattnres.demo.workspace import NAMES, Workspace, find_command
from nnunetv2_xattnres.errors import InputError


def frames(count: int, size: int = 48):
    return [draw_frame(np.random.default_rng([1, index]), size) for index in range(count)]


def test_a_frame_is_rgb_with_one_or_two_polyps():
    for image, mask in frames(20):
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert label(mask)[1] in (1, 2)
        assert 0.01 < mask.mean() < 0.5


def test_no_threshold_of_colour_finds_the_polyps():
    """Were one enough, a Dice would say nothing about learning."""
    drawn = frames(40)
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in drawn]).astype(float)
    truth = np.concatenate([mask.reshape(-1) for _, mask in drawn]).astype(bool)
    features = [*pixels.T, pixels[:, 0] / (pixels.sum(1) + 1), pixels.sum(1)]
    best = 0.0
    for feature in features:
        for threshold in np.quantile(feature, np.linspace(0.02, 0.98, 25)):
            for found in (feature > threshold, feature <= threshold):
                best = max(best, 2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert best < 0.5


def test_the_data_set_is_nnunets_and_the_same_each_time(tmp_path):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folders = [write_dataset(tmp_path / name, training=3, test=2, size=32) for name in "ab"]
    verify_dataset_integrity(str(folders[0]), num_processes=1)
    names = sorted(str(file.relative_to(folders[0])) for file in folders[0].rglob("*.*"))
    assert len(names) == 11
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)
    training, test = (sorted(folders[0].glob(f"images{split}/*")) for split in ("Tr", "Ts"))
    assert training[0].read_bytes() != test[0].read_bytes()


def test_an_existing_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").write_text("kept")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["demo", "--output", str(tmp_path), "--overwrite"]) == 2
    assert "not written by the demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "change",
    [lambda root: (root / "log.txt").write_text("of something else"), lambda root: (root / "thesis.tex").touch()],
)
def test_a_folder_that_only_looks_like_a_demos_is_left_alone(tmp_path, change):
    earlier = Workspace.create(tmp_path / "demo")
    change(earlier.root)
    before = sorted(earlier.root.rglob("*"))
    with pytest.raises(InputError, match="not written by the demo"):
        Workspace.create(earlier.root, overwrite=True)
    assert sorted(earlier.root.rglob("*")) == before


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not written by the demo"):
        Workspace.create(tmp_path / "file", overwrite=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Workspace.create(tmp_path / "file" / "below")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_missing_is_named_before_anything_is_written(tmp_path, capsys, monkeypatch, device):
    zeros = torch.zeros

    def without(*sizes, **options):
        if options.get("device") == device:
            raise AssertionError("Torch not compiled with this device enabled")
        return zeros(*sizes, **options)

    def draw(*_, **__):
        raise RuntimeError("the demo began")

    monkeypatch.setattr(torch, "zeros", without)
    monkeypatch.setattr("nnunetv2_xattnres.demo.steps.write_dataset", draw)
    assert main(["demo", "--output", str(tmp_path / "demo"), "--device", device]) == 2
    said = capsys.readouterr().err
    assert f"cannot compute on the device {device}" in said and "--device cpu" in said
    assert not (tmp_path / "demo").exists()  # so that the next try is not refused


def test_overwrite_starts_afresh(tmp_path):
    earlier = Workspace.create(tmp_path / "demo")
    (earlier.raw / "old").touch()
    for name in NAMES - {path.name for path in earlier.root.iterdir()}:
        (earlier.root / name).touch()
    workspace = Workspace.create(tmp_path / "demo", overwrite=True)
    assert list(workspace.raw.iterdir()) == []


def test_a_failing_command_shows_what_it_printed(tmp_path):
    workspace = Workspace.create(tmp_path / "demo")
    with pytest.raises(InputError, match="failed") as raised:
        workspace.run("python3", "-c", "import sys; print('the reason'); sys.exit(3)")
    assert "exit code 3" in str(raised.value)
    assert "the reason" in raised.value.problems
    assert "the reason" in (workspace.root / "log.txt").read_text()


def test_what_was_shown_is_not_looked_for_in_the_log(tmp_path):
    workspace = Workspace.create(tmp_path / "demo")
    with pytest.raises(InputError, match="what it printed is above") as raised:
        workspace.run("python3", "-c", "raise SystemExit(3)", show=True)
    assert "log.txt" not in str(raised.value)


def test_a_failing_command_may_print_in_the_systems_encoding(tmp_path):
    workspace = Workspace.create(tmp_path / "demo")
    script = "import sys; sys.stdout.buffer.write(b'r\\xe9sultat\\n'); sys.stdout.flush(); sys.exit(3)"
    with pytest.raises(InputError, match="failed") as raised:
        workspace.run("python3", "-c", script)
    assert "r\ufffdsultat" in raised.value.problems


def test_commands_see_the_demos_folders_and_the_hook_only_where_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "elsewhere")
    monkeypatch.setenv("nnUNet_extTrainer", "elsewhere")
    workspace = Workspace.create(tmp_path / "demo")
    script = "import os; print(os.environ['nnUNet_raw'], os.environ.get('nnUNet_extTrainer'))"
    workspace.run("python3", "-c", script)
    workspace.run("python3", "-c", script, hook=True)
    _, *lines = (workspace.root / "log.txt").read_text().splitlines()
    without, with_hook = [line for line in lines if line[0] != "$"]
    assert without == f"{workspace.raw} None"
    assert with_hook.endswith("hook")


def test_a_missing_command_sends_to_the_doctor():
    with pytest.raises(InputError, match="doctor"):
        find_command("nnUNetv2_nothing")


def test_the_picture_outlines_both_and_says_where_nothing_was_found(tmp_path):
    image, mask = frames(1)[0]
    for folder in ("images", "references", "predictions"):
        (tmp_path / folder).mkdir()
    for case in ("a", "b"):
        Image.fromarray(image).save(tmp_path / "images" / f"{case}_0000.png")
        Image.fromarray(mask).save(tmp_path / "references" / f"{case}.png")
        Image.fromarray(mask * (case == "a")).save(tmp_path / "predictions" / f"{case}.png")
    folders = (tmp_path / "images", tmp_path / "references", tmp_path / "predictions")
    draw_picture(tmp_path / "picture.png", *folders, {"a": 1.0, "b": 0.0})
    drawn = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
    height, width = drawn.shape[:2]

    def amount(colour, rows, columns):
        return (np.abs(drawn[rows, columns] - colour).sum(-1) < 30).sum()

    top, bottom = slice(0, height // 2), slice(height // 2, height)
    cyan, yellow = np.array([0, 229, 255]), np.array([255, 230, 0])
    right = slice(2 * width // 3, width)
    assert amount(cyan, top, slice(width // 3, 2 * width // 3)) > 100
    assert amount(yellow, top, right) > 100
    assert 0 < amount(yellow, bottom, right) < amount(yellow, top, right)  # the words "nothing found"


@pytest.mark.slow
def test_the_whole_demo_in_small(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    plan = tmp_path / "nnUNetv2_plan_and_preprocess"
    plan.write_text(f"#!{sys.executable}\nif __name__ == '__main__':\n    {code_of(plan.name)}\n")
    plan.chmod(0o755)
    commands = "nnunetv2_xattnres.demo.workspace.find_command"
    monkeypatch.setattr(commands, lambda name: str(plan) if name == plan.name else find_command(name))
    result = run_demo(tmp_path / "demo", Settings(training=20, test=4, size=32))
    printed = capfd.readouterr().out
    assert {path.name for path in (tmp_path / "demo").iterdir()} == NAMES  # by which --overwrite knows it again
    assert result.dice > result.untrained_dice + 0.1
    assert f"{result.dice:.3f}" in printed
    assert str(result.model) in printed
    assert str(result.picture) in printed
    assert Image.open(result.picture).size[1] > 500
    checkpoint = torch.load(result.model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    plans = json.loads((result.model / "plans.json").read_text())
    network = plans["configurations"]["2d"]["architecture"]["network_class_name"]
    assert network == "nnunetv2_xattnres.architectures.XAttnResUNet"
    raw = Path(tmp_path / "demo" / "nnUNet_raw" / DATASET)
    assert {file.name for file in (tmp_path / "demo" / "predictions").glob("*.png")} == {
        file.name for file in (raw / "labelsTs").iterdir()
    }
