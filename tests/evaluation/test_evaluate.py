"""Folders of masks through the command: formats, label settings, everything that is refused, and what is written."""

import csv
import json
import math
import os

import numpy as np
import pytest
import SimpleITK as sitk
from medpy.metric import binary as medpy
from skimage import io

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.files import read_scores
from nnunetv2_xattnres.evaluation.scores import evaluate_folders

SPACING = (0.7, 0.9, 2.5)  # x, y, z as SimpleITK orders it


def write_nifti(path, array, spacing=SPACING, origin=(0.0, 0.0, 0.0)):
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing[: array.ndim])
    image.SetOrigin(origin[: array.ndim])
    sitk.WriteImage(image, str(path))


def boxes(shift=0, shape=(8, 16, 18)):
    """Label 1 and label 2 side by side in a volume."""
    array = np.zeros(shape, dtype=np.uint8)
    array[2:6, 3 + shift : 9 + shift, 4:8] = 1
    array[2:6, 3 + shift : 9 + shift, 8:13] = 2
    return array


@pytest.fixture
def data(tmp_path):
    """Three volumes with a shifted prediction each, in the layout of a raw data set."""
    reference, prediction = tmp_path / "Dataset001_Boxes" / "labelsTs", tmp_path / "predictions"
    reference.mkdir(parents=True)
    prediction.mkdir()
    for index in range(3):
        write_nifti(reference / f"box_{index}.nii.gz", boxes())
        write_nifti(prediction / f"box_{index}.nii.gz", boxes(index))
    set_labels(reference, {"background": 0, "left": 1, "right": 2})
    return reference, prediction


def set_labels(reference, labels, ending=".nii.gz", **more):
    content = {"labels": labels, "file_ending": ending, "channel_names": {"0": "CT"}, "numTraining": 0, **more}
    (reference.parent / "dataset.json").write_text(json.dumps(content))


def test_volumes_with_spacing(data):
    scores = evaluate_folders(*data, progress=False)
    assert (scores["convention"], scores["unit"], scores["labels"]) == ("nnunet", "mm", {"left": 1, "right": 2})
    assert [row["case"] for row in scores["cases"]] == ["box_0", "box_0", "box_1", "box_1", "box_2", "box_2"]
    for index, row in enumerate(row for row in scores["cases"] if row["label"] == "right"):
        masks = boxes(index) == 2, boxes() == 2
        assert row["dice"] == pytest.approx(medpy.dc(*masks))
        assert row["hd95"] == pytest.approx(medpy.hd95(*masks, SPACING[::-1]))
    assert scores["per_label"]["left"]["dice"] == pytest.approx((1 + 5 / 6 + 4 / 6) / 3)
    means = [scores["per_label"][name]["iou"] for name in ("left", "right")]
    assert scores["mean"]["iou"] == pytest.approx(sum(means) / 2)


def test_processes_give_the_same(data):
    assert evaluate_folders(*data, workers=2, progress=False) == evaluate_folders(*data, workers=1, progress=False)


def test_transunet_unit(data):
    scores = evaluate_folders(*data, convention="transunet", progress=False)
    assert scores["unit"] == "voxel"
    masks = boxes(2) == 1, boxes() == 1
    assert scores["cases"][4]["hd95"] == pytest.approx(medpy.hd95(*masks))


def test_png(tmp_path):
    reference, prediction = tmp_path / "labelsTs", tmp_path / "out"
    reference.mkdir()
    prediction.mkdir()
    for name, shift in (("a", 0), ("b", 2)):
        for folder, moved in ((reference, 0), (prediction, shift)):
            io.imsave(folder / f"{name}.png", np.roll(boxes()[3], moved, axis=0) // 2, check_contrast=False)
    set_labels(reference, {"background": 0, "polyp": 1}, ".png")
    scores = evaluate_folders(reference, prediction, progress=False)
    assert scores["unit"] == "voxel"  # a png has no spacing
    masks = [np.roll(boxes()[3], moved, axis=0) == 2 for moved in (2, 0)]
    assert scores["cases"][1]["hd95"] == pytest.approx(medpy.hd95(*masks))
    assert scores["cases"][1]["dice"] == pytest.approx(medpy.dc(*masks))


def test_one_slice_is_an_image(data):
    """In a volume of one slice every voxel would be border and HD95 too small."""
    reference, prediction = data
    for path in [*reference.glob("*.gz"), *prediction.glob("*.gz")]:
        path.unlink()
    outer, inner = np.zeros((2, 1, 20, 20), dtype=np.uint8)
    outer[:, 2:18, 2:18], inner[:, 6:14, 6:14] = 1, 1
    write_nifti(reference / "flat.nii.gz", outer)
    write_nifti(prediction / "flat.nii.gz", inner)
    scores = evaluate_folders(reference, prediction, progress=False)
    assert scores["cases"][0]["hd95"] == pytest.approx(medpy.hd95(inner[0], outer[0], SPACING[1::-1]))
    assert scores["cases"][0]["hd95"] != pytest.approx(medpy.hd95(inner, outer, SPACING[::-1]))


@pytest.mark.parametrize("setting", ["labels", "regions", "ignore"])
def test_dice_is_that_of_nnunet(data, setting):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    reference, prediction = data
    labels = {"background": 0, "left": 1, "right": 2}
    ours, ignore, order = {"left": 1, "right": 2}, None, {}
    if setting == "regions":
        labels, order = {"background": 0, "both": [1, 2], "right": 2}, {"regions_class_order": [1, 2]}
        ours = {"both": (1, 2), "right": 2}
    if setting == "ignore":
        labels["ignore"] = ignore = 3
        for path in reference.glob("*.gz"):
            array = boxes()
            array[:, 4:8, 6:10] = 3
            write_nifti(path, array)
    set_labels(reference, labels, **order)
    scores = evaluate_folders(reference, prediction, progress=False)
    for case in ("box_0", "box_1", "box_2"):
        files = [str(folder / f"{case}.nii.gz") for folder in (reference, prediction)]
        theirs = compute_metrics(*files, SimpleITKIO(), list(ours.values()), ignore)["metrics"]
        for name, value in ours.items():
            row = next(row for row in scores["cases"] if (row["case"], row["label"]) == (case, name))
            assert row["dice"] == pytest.approx(theirs[value]["Dice"])
            assert row["iou"] == pytest.approx(theirs[value]["IoU"])


def test_a_perfect_prediction_outside_ignored_voxels_is_perfect(data):
    reference, prediction = data
    set_labels(reference, {"background": 0, "left": 1, "right": 2, "ignore": 3})
    for path in reference.glob("*.gz"):
        array = boxes(int(path.name[4]))
        array[:, :6] = 3
        write_nifti(path, array)
    scores = evaluate_folders(reference, prediction, progress=False)
    assert scores["mean"] == {"dice": 1.0, "iou": 1.0, "hd95": 0.0}


def test_every_problem_is_listed(data, capsys, tmp_path):
    reference, prediction = data
    write_nifti(reference / "box_3.nii.gz", boxes())  # no prediction
    write_nifti(prediction / "box_4.nii.gz", boxes())  # no reference
    write_nifti(prediction / "box_0.nii.gz", boxes(shape=(8, 16, 20)))
    write_nifti(prediction / "box_1.nii.gz", boxes(), spacing=(0.7, 0.9, 3.0))
    odd = boxes()
    odd[0, 0, :2] = 7, 9
    write_nifti(prediction / "box_2.nii.gz", odd)
    for folder in data:
        (folder / "box_5.nii.gz").write_bytes(b"not an image")
        (folder / "._box_5.nii.gz").write_bytes(b"macOS's own")
    output = tmp_path / "scores.json"
    assert main(["evaluate", str(reference), str(prediction), "--json", str(output)]) != 0
    message = capsys.readouterr().err
    for expected in (
        "box_3.nii.gz has no prediction",
        "box_4.nii.gz has no reference",
        "box_0: shape (8, 16, 18) in the reference, (8, 16, 20) in the prediction",
        "box_1: spacing",
        "box_2: prediction holds values that the data set does not name: 7, 9",
        "box_5: reference box_5.nii.gz cannot be used",
        "box_5: prediction box_5.nii.gz cannot be used",
    ):
        assert expected in message
    assert "._box_5" not in message
    assert not output.exists()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0.98, 0.5])
def test_files_that_are_cut_off_are_refused(tmp_path, ending, kept):
    """As a killed process leaves them; SimpleITK reads zeros for what is missing."""
    reference, prediction = tmp_path / "labelsTs", tmp_path / "predictions"
    for folder in (reference, prediction):
        folder.mkdir()
        write_nifti(folder / f"a{ending}", np.random.default_rng(0).integers(0, 2, (8, 16, 18)))
    set_labels(reference, {"background": 0, "one": 1}, ending)
    assert evaluate_folders(reference, prediction, progress=False)["mean"]["dice"] == 1
    path = prediction / f"a{ending}"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"a: prediction a{ending} cannot be used: (Compressed|it holds)"):
        evaluate_folders(reference, prediction, progress=False)


def test_a_linked_folder_is_scored_with_the_description_beside_the_link(data, tmp_path):
    reference, prediction = data
    elsewhere = tmp_path / "store" / "labels"
    elsewhere.parent.mkdir()
    reference.rename(elsewhere)
    reference.symlink_to(elsewhere)
    (elsewhere.parent / "dataset.json").write_text('{"labels": {"background": 0, "x": 9}, "file_ending": ".nii.gz"}')
    assert set(evaluate_folders(reference, prediction, progress=False)["labels"]) == {"left", "right"}


def test_colour_masks_and_noisy_masks_are_refused(tmp_path):
    reference, prediction = tmp_path / "labelsTs", tmp_path / "out"
    for folder in (reference, prediction):
        folder.mkdir()
        io.imsave(folder / "a.png", np.zeros((9, 9, 3), np.uint8), check_contrast=False)
        io.imsave(folder / "b.png", np.full((9, 9), 255, np.uint8), check_contrast=False)
    set_labels(reference, {"background": 0, "polyp": 1}, ".png")
    with pytest.raises(InputError) as caught:
        evaluate_folders(reference, prediction, progress=False)
    assert "a: reference a.png cannot be used: has 3 channels, a mask has one" in caught.value.problems
    assert "b: prediction holds values that the data set does not name: 255" in caught.value.problems


def test_predicted_only(data):
    (data[1] / "box_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"box_1\.nii\.gz has no prediction"):
        evaluate_folders(*data, progress=False)
    scores = evaluate_folders(*data, progress=False, predicted_only=True)
    assert {row["case"] for row in scores["cases"]} == {"box_0", "box_2"}
    assert scores["notes"] == ["1 of 3 references have no prediction and were left out"]


def test_missing_class_and_moved_origin_are_noted(data):
    reference, prediction = data
    set_labels(reference, {"background": 0, "left": 1, "right": 2, "never": 4})
    write_nifti(prediction / "box_0.nii.gz", np.where(boxes() == 2, 0, boxes()), origin=(5.0, 0.0, 0.0))
    scores = evaluate_folders(*data, progress=False)
    assert 'class "never" occurs in no case and is left out of the mean' in scores["notes"]
    assert "box_0: origin differs between reference and prediction" in scores["notes"]
    assert math.isnan(scores["per_label"]["never"]["dice"])
    assert scores["per_label"]["right"]["n_dice"] == 3
    assert scores["per_label"]["right"]["n_hd95"] == 2
    assert scores["mean"]["dice"] == pytest.approx(
        (scores["per_label"]["left"]["dice"] + scores["per_label"]["right"]["dice"]) / 2
    )


def test_command_writes_json_csv_and_markdown(data, tmp_path, capsys):
    reference, prediction = data
    write_nifti(prediction / "box_0.nii.gz", np.where(boxes() == 2, 0, boxes()))
    files = {kind: tmp_path / f"scores.{kind}" for kind in ("json", "csv", "markdown")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    assert main(["evaluate", str(reference), str(prediction), *options]) == 0
    printed = capsys.readouterr().out
    assert "HD95 mm" in printed
    assert "3 (HD95: 2)" in printed
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == 6  # one row per case and class
    assert rows[1] == {"case": "box_0", "label": "right", "dice": "0.0", "iou": "0.0", "hd95": ""}
    content = json.loads(files["json"].read_text())
    assert content["cases"][1]["hd95"] is None
    assert math.isnan(read_scores(files["json"])["cases"][1]["hd95"])
    assert files["markdown"].read_text().startswith("| class | Dice % | IoU % | HD95 mm | cases |\n| :-- |")
    before = files["json"].read_text()
    files["markdown"].unlink()
    write_nifti(prediction / "box_0.nii.gz", boxes())
    assert main(["evaluate", str(reference), str(prediction), *options]) == 2
    assert f"{files['json']} exists already: --overwrite replaces it" in capsys.readouterr().err
    assert files["json"].read_text() == before
    assert main(["evaluate", str(reference), str(prediction), *options, "--overwrite"]) == 0
    assert files["json"].read_text() != before
    dataset = reference.parent / "dataset.json"
    for given in ([], ["--dataset-json", str(dataset)]):
        command = ["evaluate", str(reference), str(prediction), "--json", str(dataset), "--overwrite", *given]
        assert main(command) == 2 and "is a file that this command reads" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda reference, prediction: (reference.parent / "dataset.json").unlink(), "name it with --dataset-json"),
        (lambda reference, prediction: set_labels(reference, {"background": 0}), "no class but the background"),
        (lambda reference, prediction: set_labels(reference, {"0": "background"}), "whole number"),
        (lambda reference, prediction: set_labels(reference, {"a": float("inf")}), "whole number"),
        (lambda reference, prediction: set_labels(reference, {"a": 1}, ".xyz"), "There is no file"),
        (
            lambda reference, prediction: set_labels(reference, {"a": 1}, overwrite_image_reader_writer=5),
            "no reader by the name 5: correct dataset.json",
        ),
        (lambda reference, prediction: (reference.parent / "dataset.json").write_text("{"), "cannot be read as JSON"),
    ],
)
def test_unusable_data_sets_say_why(data, change, message):
    change(*data)
    with pytest.raises(InputError) as caught:
        evaluate_folders(*data, progress=False)
    assert message in str(caught.value)


def test_a_slice_without_a_third_axis_is_scored_with_a_note(data):
    reference, prediction = data
    for path in (*reference.iterdir(), *prediction.iterdir()):
        path.unlink()
    mask = boxes()[2:3]
    write_nifti(
        reference / "box_0.nii.gz", mask, (1, 1, 999)
    )  # nnU-Net gives the third axis of a 2D image this spacing
    write_nifti(prediction / "box_0.nii.gz", mask[0], (1, 1))
    scores = evaluate_folders(reference, prediction, progress=False)
    assert "box_0: origin differs between reference and prediction" in scores["notes"]


def test_command_refuses_before_the_work(data, tmp_path, capsys):
    reference, prediction = data
    assert main(["evaluate", str(reference), str(tmp_path / "nowhere")]) == 2
    assert "prediction folder" in capsys.readouterr().err
    assert main(["evaluate", str(reference), str(prediction), "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    same = str(tmp_path / "x")
    assert main(["evaluate", str(reference), str(prediction), "--json", same, "--csv", same]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_a_disk_that_is_full_is_a_message(data, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    assert main(["evaluate", *map(str, data), "--csv", str(tmp_path / "x.csv")]) == 2
    assert "x.csv cannot be written (No space left on device)" in capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if "x.csv" in path.name]


def test_real_labels_shifted(shared_data, tmp_path):
    """Real hippocampi moved by one voxel: the distance of most of the surface is one voxel, 1 mm."""
    reference, prediction = tmp_path / "labelsTr", tmp_path / "moved"
    reference.mkdir()
    prediction.mkdir()
    for path in sorted((shared_data / "Task04_Hippocampus" / "labelsTr").glob("hippocampus_*.nii.gz"))[:3]:
        image = sitk.ReadImage(str(path))
        moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(image), 1, axis=1))
        moved.CopyInformation(image)
        sitk.WriteImage(image, str(reference / path.name))
        sitk.WriteImage(moved, str(prediction / path.name))
    set_labels(reference, {"background": 0, "anterior": 1, "posterior": 2})
    scores = evaluate_folders(reference, prediction, progress=False)
    assert scores["mean"]["hd95"] == pytest.approx(1.0)
    assert 0.7 < scores["mean"]["dice"] < 0.95


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")], ids=repr)
def test_short_memory_is_no_bad_file(data, capsys, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr("nnunetv2_xattnres.evaluation.cases.check_whole", fails)
    assert main(["evaluate", *map(str, data)]) == 2
    message = capsys.readouterr().err
    assert "out of memory" in message
    assert "--workers 1" in message
    assert "cannot be used" not in message


def ends_its_process(_task):
    os._exit(9)


@pytest.mark.slow
def test_a_killed_worker_is_a_message(data, capsys, monkeypatch):
    monkeypatch.setattr("nnunetv2_xattnres.evaluation.scores.run_case", ends_its_process)
    assert main(["evaluate", *map(str, data), "--workers", "2"]) == 2
    message = capsys.readouterr().err
    assert "was killed" in message
    assert "--workers 1" in message
