"""Options of the scores: NSD and its tolerances, and the rule for classes that one side misses."""

import csv
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from skimage import io

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.files import read_scores
from nnunetv2_xattnres.evaluation.scores import evaluate_folders
from nnunetv2_xattnres.evaluation.scoring import canonical, check_options, class_tolerances

SHAPE, SPACING = (6, 12, 16), (3.0, 1.0, 0.5)  # z, y, x
ALL = ("dice", "iou", "hd95", "nsd")


def cube(shift):
    """Label 1 is moved by ``shift`` voxels along y, label 2 stays."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2:4, 2 + shift : 6 + shift, 2:6] = 1
    array[2:4, 2:6, 9:13] = 2
    return array


def make(root, pairs, labels=("moved", "still")):
    """Folders of references and predictions in millimetres."""
    folders = root / "labelsTs", root / "out"
    for folder in folders:
        folder.mkdir()
    for index, pair in enumerate(pairs):
        for folder, array in zip(folders, pair, strict=True):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(SPACING[::-1])
            sitk.WriteImage(image, str(folder / f"case_{index}.nii.gz"))
    values = {"background": 0, **{name: number for number, name in enumerate(labels, start=1)}}
    describe(root, values, ".nii.gz")
    return folders


def describe(root, labels, ending):
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending, "channel_names": {}}))


@pytest.fixture
def data(tmp_path):
    return make(tmp_path, [(cube(0), cube(2)), (cube(0), np.where(cube(0) == 1, 0, cube(0)))])


def score(data, **options):
    return evaluate_folders(*data, progress=False, **options)


def test_nsd_counts_the_surface_within_the_tolerance(data):
    """Of a block moved by 2 mm, the border voxels of both planes that face the motion are 2 or 1 mm away."""
    found = {
        size: score(data, metrics=["nsd"], tolerance=[size])["cases"][0]["nsd"]
        for size in ("0mm", "0.5mm", "1mm", "2mm")
    }
    assert found == {"0mm": 0.5, "0.5mm": 0.5, "1mm": 0.75, "2mm": 1.0}


def test_one_side_missing(data):
    plain = score(data, metrics=ALL, tolerance=["1"])
    row = plain["cases"][2]
    assert (row["case"], row["label"], row["dice"], row["nsd"]) == ("case_1", "moved", 0, 0) and math.isnan(row["hd95"])
    worst = score(data, metrics=ALL, tolerance=["1"], missing="worst")
    diagonal = math.sqrt(18**2 + 12**2 + 8**2)
    assert worst["cases"][2] == {**row, "hd95": pytest.approx(diagonal)}
    assert worst["per_label"]["moved"]["hd95"] == pytest.approx((plain["cases"][0]["hd95"] + diagonal) / 2)
    assert worst["per_label"]["moved"]["n_hd95"] == 2


def test_both_sides_missing_stay_left_out(tmp_path):
    data = make(tmp_path, [(cube(0), cube(0))], ("moved", "still", "never"))
    scores = score(data, metrics=ALL, tolerance=["1"], missing="worst")
    assert all(math.isnan(scores["per_label"]["never"][metric]) for metric in ALL)
    assert scores["mean"] == {"dice": 1, "iou": 1, "hd95": 0, "nsd": 1}
    assert scores["notes"] == ['class "never" occurs in no case and is left out of the mean']


def test_the_command_writes_them(data, tmp_path, capsys):
    files = {kind: tmp_path / f"s.{kind}" for kind in ("json", "csv", "markdown")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    options += ["--metric", "nsd", "dice", "hd95", "--tolerance", "1mm", "still=2mm", "--missing", "worst"]
    assert main(["evaluate", *map(str, data), *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["class", "Dice", "%", "HD95", "mm", "NSD", "%", "cases"]
    assert "NSD at a tolerance of 1 mm (moved), 2 mm (still)" in printed
    assert "a class that only one side has gets the worst scores: HD95 is the image's diagonal" in printed
    content = json.loads(files["json"].read_text())
    assert content["metrics"] == ["dice", "hd95", "nsd"]
    assert content["tolerance"] == {"moved": 1.0, "still": 2.0} and content["missing"] == "worst"
    assert read_scores(files["json"])["cases"] == content["cases"]
    rows = list(csv.DictReader(files["csv"].open()))
    assert list(rows[0]) == ["case", "label", "dice", "hd95", "nsd"] and rows[0]["nsd"] == "0.75"
    table = files["markdown"].read_text()
    assert table.startswith("| class | Dice % | HD95 mm | NSD % | cases |\n| :-- | --: | --: | --: | :-- |\n")
    assert "; NSD at a tolerance of 1 mm (moved), 2 mm (still); a class" in table


def test_files_without_the_options_do_not_name_them(data, tmp_path):
    assert main(["evaluate", *map(str, data), "--json", str(tmp_path / "s.json")]) == 0
    content = json.loads((tmp_path / "s.json").read_text())
    assert list(content) == ["convention", "unit", "labels", "cases", "per_label", "mean", "notes"]
    assert list(content["cases"][0]) == ["case", "label", "dice", "iou", "hd95"]


def test_only_a_distance(data):
    scores = score(data, metrics=["hd95"])
    assert list(scores["mean"]) == ["hd95"] and scores["per_label"]["moved"]["n_hd95"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "dice", "nsd"], "NSD has no tolerance"),
        (["--tolerance", "2mm"], "add nsd to --metric"),
        (["--metric", "nsd", "--tolerance", "2cm"], 'The tolerance "2cm" cannot be read'),
        (["--metric", "nsd", "--tolerance", "-1"], "cannot be read|expected at least one argument"),
        (["--metric", "nsd", "--tolerance", "=2"], "cannot be read"),
        (["--metric", "nsd", "--tolerance", "2px"], "2px: distances are in mm here, write 2mm"),
        (["--metric", "nsd", "--tolerance", "moved=1"], "no tolerance for still"),
        (["--metric", "nsd", "--tolerance", "1", "liver=1"], "there is no class liver, the classes are moved, still"),
        (["--metric", "nsd", "--tolerance", "1", "2"], "2: a second tolerance for all classes"),
        (
            ["--metric", "nsd", "--tolerance", "2mm", "--convention", "transunet"],
            "2mm: distances are in pixels or voxels here, write 2px",
        ),
        (["--missing", "worst", "--convention", "transunet"], "contradicts the convention transunet"),
    ],
)
def test_what_does_not_fit_is_one_message(data, tmp_path, capsys, options, message):
    output = tmp_path / "s.json"
    try:
        code = main(["evaluate", *map(str, data), "--json", str(output), *options])
    except SystemExit as error:  # of argparse
        code = error.code
    assert code == 2 and not output.exists()
    text = capsys.readouterr().err
    assert any(part in text for part in message.split("|"))


def test_natural_images_have_pixels(tmp_path):
    folders = tmp_path / "labelsTs", tmp_path / "out"
    for folder, shift in zip(folders, (0, 2), strict=True):
        folder.mkdir()
        io.imsave(folder / "a.png", (cube(shift)[2] == 1).astype(np.uint8), check_contrast=False)
    describe(tmp_path, {"background": 0, "polyp": 1}, ".png")
    assert score(folders, metrics=["nsd"], tolerance=["2px"])["mean"]["nsd"] == 1
    assert score(folders, metrics=["nsd"], tolerance=["1"])["mean"]["nsd"] < 1
    with pytest.raises(InputError, match="2mm: distances are in pixels or voxels here, write 2px"):
        score(folders, metrics=["nsd"], tolerance=["2mm"])


def test_equal_tolerances_have_one_spelling():
    spellings = (["b=3", "2.0mm"], ["2", "b=3 mm"])
    assert [canonical(check_options(ALL, texts, "worst", "nnunet")[1], "mm") for texts in spellings] == [
        ["2mm", "b=3mm"]
    ] * 2
    _, found = check_options(ALL, ["a=b=1px", "2"], "undefined", "transunet")
    assert class_tolerances(found, "voxel", ["a=b", "c"]) == {"a=b": 1.0, "c": 2.0}
