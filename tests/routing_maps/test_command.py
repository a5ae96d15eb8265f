"""``nnunetv2_xattnres routing``, on models as nnU-Net leaves them."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from model_phantom import write_frames, write_model, write_volume

from nnunetv2_xattnres.cli import main


def routing(*arguments):
    return main(["routing", "-f", "0", "-device", "cpu", *map(str, arguments)])


@pytest.mark.slow
def test_frames_with_references(tmp_path, capsys):
    model = write_model(tmp_path / "model", 2, [32, 32])
    images, labels = write_frames(tmp_path, 3, (32, 48))
    output = tmp_path / "out"
    arguments = [
        "-m",
        model,
        "-i",
        images,
        "-o",
        output,
        "--labels",
        labels,
        "--disable_tta",
        "--cases",
        "frame_0,frame_2",
    ]
    assert routing(*arguments, "--heat-maps", "--knock-out", "--stages", "decoder 2") == 0
    assert "paper's claim" in capsys.readouterr().out

    content = json.loads((output / "routing.json").read_text())
    assert [stage["stage"] for stage in content["stages"]] == ["decoder 2"]
    assert content["stages"][0]["size_for_one_patch"] == [32, 32]
    assert content["distance_unit"] == "pixels"
    assert sorted(content["cases"]) == ["frame_0", "frame_2"]
    maps = np.load(output / "maps" / content["cases"]["frame_2"]["decoder 2"])
    assert maps["entries"].tolist() == content["stages"][0]["entries"]
    assert maps["weights"].shape == (5, 32, 48)
    assert np.abs(maps["weights"].sum(0) - 1).max() < 1e-5

    assert {path.name for path in (output / "predictions").glob("*.png")} == {"frame_0.png", "frame_2.png"}
    assert (output / "figures" / "frame_0.png").is_file() and (output / "figures" / "frame_0_decoder_2.png").is_file()
    assert len((output / "knock_out.csv").read_text().splitlines()) == 1 + 5
    assert "by class" in (output / "routing.md").read_text()
    page = (output / "routing.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # self-contained
    assert page.count('class="case"') == 2 and "Knock-out" in page
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert all(f'id="{anchor}"' in page for anchor in re.findall(r'href="#([^"]+)"', page))

    assert routing(*arguments) == 2
    assert "--overwrite replaces them" in capsys.readouterr().err
    assert routing(*arguments, "--stages", "decoder 2", "--overwrite") == 0
    assert not (output / "knock_out.csv").exists()  # nothing is left of the run before


@pytest.mark.slow
def test_a_volume_without_references(tmp_path):
    model = write_model(tmp_path / "model", 3, [16, 16, 16], spacing=[1.5, 1.0, 1.0], queries=False)
    images = write_volume(tmp_path / "images", (20, 18, 14), (1.0, 1.2, 2.5), margin=2)
    assert routing("-m", model, "-i", images, "-o", tmp_path / "out", "--slice", "5") == 0
    content = json.loads((tmp_path / "out" / "routing.json").read_text())
    assert content["distance_unit"] == "mm"
    for stage in content["stages"]:
        maps = nib.load(tmp_path / "out" / "maps" / content["cases"]["volume"][stage["stage"]])
        assert maps.shape == (20, 18, 14, len(stage["entries"]))
        assert np.allclose(maps.affine, nib.load(images / "volume_0000.nii.gz").affine, atol=1e-4)
        assert np.abs(maps.get_fdata() - 1 / len(stage["entries"])).max() < 1e-5  # untrained: uniform
    text = (tmp_path / "out" / "routing.md").read_text()
    assert "right and wrong" not in text
    assert "slice 5" in (tmp_path / "out" / "routing.html").read_text()
    assert routing("-m", model, "-i", images, "-o", tmp_path / "again", "--slice", "14") == 2


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_model(folder / "model", 2, [32, 32])
    write_frames(folder, 1, (32, 32))
    return folder


def check(capsys, message, *arguments):
    assert routing(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("dataset.json", {"file_ending": None}, r"dataset\.json has null under file_ending"),
        ("plans.json", {"patch_size": None}, r"plans\.json has null under patch_size"),
        ("plans.json", {"patch_size": [32, 32, 32]}, r"has the patch_size \[32, 32, 32\] and the spacing"),
    ],
)
def test_a_model_whose_files_were_changed_by_hand_is_refused(frames, tmp_path, capsys, file, change, said):
    model = shutil.copytree(frames / "model", tmp_path / "model")
    content = json.loads((model / file).read_text())
    (content if file == "dataset.json" else content["configurations"]["2d"]).update(change)
    (model / file).write_text(json.dumps(content))
    check(capsys, said, "-m", model, "-i", frames / "images", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_said_before_anything_is_written(frames, tmp_path, capsys):
    model, images, output = frames / "model", frames / "images", tmp_path / "out"
    use = ["-m", model, "-i", images, "-o", output]
    check(capsys, "Name the model once", "-i", images, "-o", output)
    check(capsys, "Name the model once", *use, "-d", "1", "-c", "2d")
    check(capsys, r"There is no such model(.|\n)*fold_3", *use, "-f", "3")
    check(capsys, "--knock-out compares Dice.*--labels", *use, "--knock-out")
    check(
        capsys,
        "the network has no stage decoder 7: its stages are encoder 2|no stage decoder 7",
        *use,
        "--stages",
        "decoder 7",
    )
    check(capsys, r"frame_9 is not in", *use, "--cases", "frame_9")
    check(capsys, "has no image NAME_0000.png", "-m", model, "-i", frames / "model", "-o", output)
    check(capsys, "-step_size is 2", *use, "-step_size", "2")
    if not torch.cuda.is_available():
        check(capsys, "cannot compute on the device cuda", *use, "-device", "cuda")
    (tmp_path / "empty").mkdir()
    check(
        capsys, r"Not every case has a reference(.|\n)*frame_0.png does not exist", *use, "--labels", tmp_path / "empty"
    )
    assert not output.exists()
    output.mkdir()
    (output / "mine.txt").touch()
    check(capsys, "holds files of something else", *use, "--overwrite")


def test_a_model_without_xattnres_says_so_in_one_line(frames, tmp_path, capsys):
    routing_off = {"encoder": False, "decoder": False}
    model = write_model(tmp_path / "model", 2, [32, 32], routing=routing_off, queries=False)
    assert routing("-m", model, "-i", frames / "images", "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint(frames, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(frames / "model", model)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"cut off")
    check(
        capsys,
        "checkpoint_final.pth cannot be read as a checkpoint ",
        "-m",
        model,
        "-i",
        frames / "images",
        "-o",
        tmp_path / "out",
    )


def test_an_image_that_is_not_what_the_model_was_trained_with(frames, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(frames / "images", images)
    (images / "frame_1_0000.png").write_bytes(b"no picture")
    check(
        capsys, "nnU-Net cannot read .*frame_1_0000.png",
        "-m", frames / "model", "-i", images, "-o", tmp_path / "out", "--cases", "frame_1",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_the_results_of_the_one_before(frames, tmp_path, capsys):
    images, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(frames / "images", images)
    (images / "frame_1_0000.png").write_bytes(b"no picture")
    output.mkdir()
    (output / "routing.md").write_text("before")
    check(capsys, "cannot read", "-m", frames / "model", "-i", images, "-o", output, "--overwrite")
    assert (output / "routing.md").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
