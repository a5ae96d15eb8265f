import json
import shutil

import dataset_phantoms as phantoms
import nibabel as nib
import numpy as np
import pytest
from dataset_phantoms import mask, picture, save
from PIL import Image

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.dataset_conversion.clinicdb import ClinicDB
from nnunetv2_xattnres.dataset_conversion.inspection import draw_cases, inspect_dataset
from nnunetv2_xattnres.dataset_conversion.overlap import find_overlap
from nnunetv2_xattnres.dataset_conversion.raw_dataset import RawDataset
from nnunetv2_xattnres.dataset_conversion.synapse import Synapse
from nnunetv2_xattnres.errors import InputError


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


@pytest.fixture
def clinicdb(raw, tmp_path):
    """20 frames of 10 sequences, two a sequence, split by frame."""
    source = phantoms.clinicdb(tmp_path / "source")
    rows = [f"{number},{(number + 1) // 2}" for number in range(1, 21)]
    (source / "metadata.csv").write_text("\n".join(["frame_id,sequence_id", *rows]))
    return ClinicDB().convert(source, raw=raw).folder


def volumes(raw, names=("a",), **description):
    """Dataset001_Volumes with these cases; ``description`` changes its dataset.json."""
    folder = raw / "Dataset001_Volumes"
    label = np.zeros((6, 7, 8), np.uint8)
    label[2:4, 2:4, 2:4] = 1
    for name in names:
        for path, voxels in ((f"imagesTr/{name}_0000.nii.gz", label * 100.0), (f"labelsTr/{name}.nii.gz", label)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / path)
    usual = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(usual | {"numTraining": len(names)} | description))
    return folder


def change_splits(folder, change):
    path = folder / "splits_final.json"
    splits = json.loads(path.read_text())
    change(splits)
    path.write_text(json.dumps(splits))
    return splits


def test_hidden_files_of_macos_are_named_and_no_cases(clinicdb, capsys):
    for path in [*clinicdb.rglob("*.png"), *clinicdb.glob("*.json")]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert main(["inspect", "501", "--cases", "0"]) == 1
    output = capsys.readouterr().out
    assert "imagesTr 18, imagesTs 2" in output
    wrong = output.partition("wrong\n")[2].splitlines()
    assert [line.split(": holds ")[1][:2] for line in wrong] == ["18", "18", "2 ", "2 "]
    assert "._clinicdb_" in wrong[0] and wrong[0].endswith("delete them")


def test_report_and_picture(clinicdb, capsys):
    assert main(["inspect", "501"]) == 0
    output = capsys.readouterr().out
    pixels = [mask(number) > 0 for number in range(1, 21)]
    for text in (
        "imagesTr 18, imagesTs 2",
        "size     24x32 (y x)",
        "spacing  1 1",
        f"1  polyp       {np.mean(pixels):7.2%}  20 of 20",
        "fold 0  16 train, 2 validate",
        "nothing is wrong",
    ):
        assert text in output, output
    with Image.open("Dataset501_CVCClinicDB_cases.png") as sheet:
        assert min(sheet.size) > 500


def test_picture_is_not_overwritten(clinicdb, capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    sheet.write_text("mine")
    assert main(["inspect", "501", "--sheet", str(sheet)]) == 2
    assert "exists already: --overwrite" in capsys.readouterr().err
    assert sheet.read_text() == "mine"
    assert main(["inspect", "Dataset501_CVCClinicDB", "--sheet", str(sheet), "--overwrite", "--cases", "3"]) == 0
    assert Image.open(sheet).format == "PNG"
    assert main(["inspect", "501", "--sheet", str(tmp_path / "nowhere" / "sheet.png")]) == 2
    assert main(["inspect", "501", "--sheet", str(tmp_path), "--overwrite"]) == 2
    assert main(["inspect", "501", "--sheet", str(sheet), "--overwrite", "--workers", "-1"]) == 2


def test_a_picture_with_another_ending_is_refused_before_any_work(clinicdb, capsys, monkeypatch):
    monkeypatch.setattr(RawDataset, "examine", lambda *_: pytest.fail("has begun"))
    assert main(["inspect", "501", "--sheet", "sheet.pdf"]) == 2
    assert "--sheet sheet.pdf: the picture is a PNG, give it the ending .png" in capsys.readouterr().err


def test_the_same_seed_draws_the_same_picture(clinicdb, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        main(["inspect", "501", "--sheet", str(tmp_path / f"{name}.png"), "--seed", str(seed), "--cases", "4"])
    sheets = [(tmp_path / f"{name}.png").read_bytes() for name in ("one", "two", "other")]
    assert sheets[0] == sheets[1] != sheets[2]


def test_sequences_on_two_sides_are_counted(clinicdb, raw, tmp_path):
    lines, problems = inspect_dataset(RawDataset.open("501"))
    split = json.loads((clinicdb / "splits_final.json").read_text())[0]
    sequences = {side: {(int(name[-3:]) + 1) // 2 for name in split[side]} for side in ("train", "val")}
    shared = len(sequences["train"] & sequences["val"])
    assert shared > 0
    (line,) = [line for line in lines if "train and validation" in line]
    assert line.split()[5:8] == ["0", str(shared), "0"]
    assert problems == []  # the usual split by frame; the report says it

    shutil.rmtree(clinicdb)
    ClinicDB(split="sequence").convert(tmp_path / "source", raw=raw)
    lines, _ = inspect_dataset(RawDataset.open("501"))
    for line in lines[-3:]:
        assert line.split()[-3:] == ["0", "0", "0"], line


def test_leaks_are_wrong(clinicdb):
    names = change_splits(clinicdb, lambda splits: splits[0]["val"].append(splits[0]["train"][0]))[0]
    test = next((clinicdb / "imagesTs").iterdir())
    shutil.copy(test, clinicdb / "imagesTr" / f"{names['train'][1]}_0000.png")
    _, problems = inspect_dataset(RawDataset.open("501"))
    assert problems == [
        f"fold 0: train and validation share 1 cases: {names['train'][0]}",
        f"fold 0: train and test share 1 images under two names: {names['train'][1]} = {test.name[:-9]}",
    ]
    assert main(["inspect", "501", "--cases", "0"]) == 1


def test_broken_cases_are_wrong(clinicdb, capsys):
    names = [path.name.removesuffix("_0000.png") for path in sorted((clinicdb / "imagesTr").iterdir())]
    images, labels = clinicdb / "imagesTr", clinicdb / "labelsTr"
    save(labels / f"{names[0]}.png", mask(1))
    save(labels / f"{names[1]}.png", mask(1, (24, 30)) // 255)
    (labels / f"{names[2]}.png").unlink()
    save(images / f"{names[3]}_0000.png", picture(3)[..., 0])
    (images / f"{names[4]}_0000.png").write_text("no image")
    (images / f"{names[5]}_0000.png").unlink()
    assert main(["inspect", "501"]) == 1
    output = capsys.readouterr().out
    for path, reason in (
        (labels / f"{names[0]}.png", "holds 255, which dataset.json does not name"),
        (labels / f"{names[1]}.png", "has the size (1, 24, 30), its image (1, 24, 32)"),
        (images / f"{names[2]}_0000.png", "has no label in labelsTr"),
        (images / f"{names[3]}_0000.png", "1 channels, expected 3"),
        (images / f"{names[4]}_0000.png", f"case {names[4]} cannot be read"),
        (clinicdb / "dataset.json", "numTraining is 18, imagesTr holds 17"),
        (clinicdb / "splits_final.json", f"fold 0 names {names[5]}, which is not in imagesTr"),
    ):
        assert f"- {path}: {reason}" in output, output


def test_an_image_in_place_of_a_label_is_told_in_one_short_line(raw):
    folder = volumes(raw)
    values = np.arange(2, 338, dtype=np.int16).reshape(6, 7, 8)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "labelsTr" / "a.nii.gz")
    _, problems = inspect_dataset(RawDataset.open("1"))
    assert (
        f"{folder / 'labelsTr' / 'a.nii.gz'}: holds 2, 3, 4, 5, 6 and 331 more, which dataset.json does not name"
        in (problems)
    )


def test_volumes_that_nnunet_stops_at_or_warns_of(raw):
    """One fault a case: what nnU-Net's integrity check refuses is wrong, what it mentions is noted."""
    folder = raw / "Dataset001_Volumes"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    labels = {"background": 0, "organ": 1}
    reader = {"overwrite_image_reader_writer": "NibabelIO"}  # SimpleITK reads 0 for NaN
    (folder / "dataset.json").write_text(
        json.dumps(
            {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 6} | reader
        )
    )
    shifted, stretched = np.eye(4), np.diag([1.0, 1.0, 3.0, 1.0])
    shifted[:3, 3] = 5
    rng = np.random.default_rng(0)
    for index, affine in enumerate([np.eye(4), np.eye(4), np.eye(4), np.eye(4), shifted, stretched]):
        image, label = rng.random((6, 7, 8), np.float32), rng.integers(0, 2, (6, 7, 8)).astype(np.float32)
        if index == 1:
            image[2] = np.nan
        if index == 2:
            label[2] = np.nan
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"c{index}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "labelsTr" / f"c{index}.nii.gz")
    cut = folder / "labelsTr" / "c3.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    lines, problems = inspect_dataset(RawDataset.open("1"))
    images, masks = folder / "imagesTr", folder / "labelsTr"
    assert problems == [
        f"{images / 'c1_0000.nii.gz'}: holds values that are not finite (NaN or infinity)",
        f"{masks / 'c2.nii.gz'}: holds values that are not finite (NaN or infinity)",
        f"{images / 'c3_0000.nii.gz'}: case c3 cannot be read (c3.nii.gz: Compressed file ended before the "
        "end-of-stream marker was reached)",
        f"{masks / 'c5.nii.gz'}: has the spacing (3.0, 1.0, 1.0), its image (1.0, 1.0, 1.0)",
    ]
    assert f"  - {masks / 'c4.nii.gz'}: has another affine than its image" in lines


COLOURS = np.dtype([(name, "u1") for name in "RGB"])


@pytest.mark.parametrize(
    ("image", "label", "reason"),
    [
        ((6, 7, 8, 2), (6, 7, 8), "its image is 4D: split it into b_0000, _0001 and so on, one per channel"),
        ((6, 7, 8), (6, 7), "its image is 3D, its label 2D: they need the same size"),
        ((6, 7), (6, 7, 8), "its image is 2D, its label 3D: they need the same size"),
        ((6, 7, 8), (6, 7, 8, 2), "its label has 2 channels, a mask has one"),
        (COLOURS, (6, 7, 8), "its image has vectors as values: split it into b_0000, _0001 and so on, one per channel"),
        ((6, 7, 8), COLOURS, "its label has vectors as values, a mask has one number per voxel"),
        ((6, 7), COLOURS, "its label has vectors as values, a mask has one number per voxel"),
    ],
    ids=str,
)
def test_a_case_of_other_dimensions_is_wrong_and_the_others_are_reported(raw, tmp_path, image, label, reason):
    folder = volumes(raw, numTraining=2)
    for name, kind in (("imagesTr/b_0000", image), ("labelsTr/b", label)):
        voxels = np.zeros((6, 7, 8), kind) if kind is COLOURS else np.ones(kind, np.uint8)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{name}.nii.gz")
    lines, problems = inspect_dataset(RawDataset.open("1"))
    assert problems == [f"{folder / 'imagesTr' / 'b_0000.nii.gz'}: case b cannot be read ({reason})"]
    assert "  size     8x7x6 (z y x)" in lines
    assert draw_cases(RawDataset.open("1"), tmp_path / "sheet.png") == 1


def test_masks_in_colour_and_masks_without_anything_are_wrong(clinicdb):
    for path in sorted((clinicdb / "labelsTr").iterdir()) + sorted((clinicdb / "labelsTs").iterdir()):
        save(path, 0 * mask(1))
    _, problems = inspect_dataset(RawDataset.open("501"))
    assert problems == [f"{clinicdb / 'labelsTr'}: no case holds anything but background (0)"]
    save(path, np.stack([mask(1)] * 3, axis=-1))
    _, problems = inspect_dataset(RawDataset.open("501"))
    assert any("its label has 3 channels, a mask has one" in problem for problem in problems)


def test_no_case_can_be_read(clinicdb, capsys, tmp_path):
    for path in clinicdb.glob("images*/*"):
        path.write_text("no image")
    assert main(["inspect", "501"]) == 1
    assert "none: no case can be read" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


def test_stale_splits_in_the_preprocessed_folder(clinicdb, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    stale = tmp_path / "preprocessed" / clinicdb.name
    stale.mkdir(parents=True)
    shutil.copy(clinicdb / "splits_final.json", stale)
    assert inspect_dataset(RawDataset.open("501"))[1] == []
    change_splits(stale, lambda splits: splits[0]["train"].pop())
    lines, problems = inspect_dataset(RawDataset.open("501"))
    (problem,) = problems
    assert problem.startswith(f"{stale / 'splits_final.json'}: differs from the one in {clinicdb}")
    assert "  fold 0  15 train, 2 validate" in lines
    assert any("1 cases of imagesTr are in no fold" in line for line in lines)


def test_volumes(raw, tmp_path, capsys):
    Synapse().convert(phantoms.synapse(tmp_path / "source"), raw=raw)
    assert main(["inspect", "504"]) == 0
    output = capsys.readouterr().out
    spacing = " ".join(f"{length:g}" for length in np.round(nib.affines.voxel_sizes(phantoms.AFFINE)[::-1], 4))
    assert "size     5x6x7 (z y x)" in output
    assert f"spacing  {spacing}" in output
    assert "8  aorta" in output
    assert "all     imagesTr and test" in output

    shutil.rmtree(raw)
    Synapse(splits="literature").convert(tmp_path / "source", raw=raw)
    assert main(["inspect", "504", "--cases", "0"]) == 1
    assert "fold 0: validation and test share 12 cases" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("7", "data set 7 does not exist; this folder has: Dataset501_CVCClinicDB"), ("Dataset501_X", "does not exist")],
)
def test_unknown_data_set(clinicdb, capsys, name, message):
    assert main(["inspect", name]) == 2
    assert message in capsys.readouterr().err


def test_broken_descriptions(clinicdb):
    (clinicdb / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="has no channel_names, has no labels, has no file_ending"):
        RawDataset.open("501")
    (clinicdb / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        RawDataset.open("501")
    description = {"channel_names": {"0": "MR"}, "file_ending": ".png", "labels": {"0": "background"}}
    (clinicdb / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="labels must be name: value"):
        RawDataset.open("501")
    (clinicdb / "dataset.json").write_text(json.dumps(description | {"channel_names": {}, "labels": {}}))
    with pytest.raises(InputError, match="channel_names and labels must not be empty"):
        RawDataset.open("501")
    (clinicdb.parent / "Dataset_old").mkdir()  # a folder of somebody's, no data set of nnU-Net's
    (clinicdb.parent / "Dataset501_Other").mkdir()
    with pytest.raises(InputError, match="belongs to Dataset501_CVCClinicDB and Dataset501_Other"):
        RawDataset.open("501")


@pytest.mark.parametrize("content", ['{"train": []}', '[["a"]]', "", "[", "null", "[5]", '[{"train": ["a"]}]'])
def test_splits_that_are_not_nnunets(clinicdb, capsys, content):
    (clinicdb / "splits_final.json").write_text(content)
    assert main(["inspect", "501", "--cases", "0"]) == 2
    assert f"{clinicdb / 'splits_final.json'} " in capsys.readouterr().err


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": {"sequence": ["T1", "T2"]}}, {"a": {"sequence": 7}}])
def test_a_foreign_table_of_cases_is_passed_over(clinicdb, content):
    (clinicdb / "cases.json").write_text(json.dumps(content))
    lines, problems = inspect_dataset(RawDataset.open("501"))
    assert problems == []
    assert [line.split()[6] for line in lines[-3:]] == ["unknown"] * 3


def test_short_names_of_labels_and_labels_without_values(raw):
    volumes(raw, labels={"bg": 0, "fg": 1})
    lines, problems = inspect_dataset(RawDataset.open("1"))
    assert any(line.split()[:2] == ["1", "fg"] for line in lines)
    assert len(problems) == 1 and 'labels need "background": 0' in problems[0]
    volumes(raw, labels={"background": []})
    assert any("label background has no value" in problem for problem in inspect_dataset(RawDataset.open("1"))[1])


def test_regions_and_ignore(raw):
    folder = raw / "Dataset001_Regions"
    folder.mkdir(parents=True)
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (folder / "dataset.json").write_text(
        json.dumps(
            {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".png", "numTraining": 1}
            | {"regions_class_order": [1, 2]}
        )
    )
    save(folder / "imagesTr" / "a_0000.png", picture(1)[..., 0])
    save(folder / "labelsTr" / "a.png", np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 4)
    lines, problems = inspect_dataset(RawDataset.open("1"))
    assert problems == []
    assert [line.split()[:2] for line in lines if "1 of 1" in line] == [
        ["0", "background"],
        ["1", "value"],
        ["2", "value"],
        ["3", "ignore"],
    ]


def test_a_description_that_nnunet_refuses_is_wrong(raw):
    folder = volumes(raw, labels={"background": 0, "organ": 1, "polyp": 3}, numTraining=5)
    file = folder / "dataset.json"
    _, problems = inspect_dataset(RawDataset.open("1"))
    assert f"{file}: labels have the values 0, 1, 3: nnU-Net needs 0, 1, 2 and so on" in problems
    assert f"{file}: numTraining is 5, imagesTr holds 1" in problems
    file.write_text(file.read_text().replace("numTraining", "tensorImageSize"))
    assert f"{file}: has no numTraining: imagesTr holds 1" in inspect_dataset(RawDataset.open("1"))[1]
    file.write_text(file.read_text().replace("3}", "Infinity}"))
    with pytest.raises(InputError, match="labels must be name: value"):
        RawDataset.open("1")


def test_files_that_are_no_case_are_wrong(raw):
    folder = volumes(raw)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    unused = [images / "b_0000.nii", images / "c_0000.NII.GZ", images / "d.nii.gz", images / "slices"]
    unused += [labels / "b.nii", labels / "e.nii.gz", labels / "f_0000.nii.gz"]
    beside = [images / "a.json", images / "Thumbs.db", labels / "README.txt", labels / ".DS_Store"]
    for path in [*unused, *beside]:
        path.touch()
    _, problems = inspect_dataset(RawDataset.open("1"))
    image = "is no image of a case: nnU-Net reads CASE_0000.nii.gz, and _0001 for channel 1"
    mask = "is no mask of a case: nnU-Net reads CASE.nii.gz"
    texts = [*[image] * 4, mask, *["is a mask without an image in imagesTr"] * 2]
    assert problems == [f"{path}: {text}" for path, text in zip(unused, texts, strict=True)]


def test_find_overlap():
    digests = {("Tr", "a"): "x", ("Tr", "b"): "y", ("Ts", "b"): "y", ("Ts", "c"): "x", ("Ts", "d"): ""}
    overlap = find_overlap(
        [("Tr", "a"), ("Tr", "b")], [("Ts", "b"), ("Ts", "c"), ("Ts", "d")], {"a": "10", "c": "10", "b": "9"}, digests
    )
    assert overlap.names == ["b"]
    assert overlap.sequences == ["9", "10"]
    assert overlap.images == [("a", "c"), ("b", "b")]


def test_a_class_that_occurs_in_no_case_is_wrong(clinicdb):
    path = clinicdb / "dataset.json"
    description = json.loads(path.read_text())
    description["labels"]["adenoma"] = 2
    path.write_text(json.dumps(description))
    _, problems = inspect_dataset(RawDataset.open("501"))
    assert [problem for problem in problems if "class 2 (adenoma) occurs in 0 of 20 cases" in problem] == problems != []


def test_masks_without_any_background_are_wrong(clinicdb, tmp_path, capsys):
    for path in clinicdb.glob("labels*/*"):
        save(path, np.ones((24, 32), np.uint8))
    _, problems = inspect_dataset(RawDataset.open("501"))
    assert any("background (0) occurs in 0 of 20 cases" in problem for problem in problems)
    for path in (tmp_path / "source" / "Ground Truth").iterdir():
        save(path, np.full((24, 32), 255, np.uint8))
    assert main(["convert", "clinicdb", str(tmp_path / "source"), "--dataset-id", "7"]) == 2
    assert "no mask holds any background" in capsys.readouterr().err


def test_inverted_masks_are_mentioned(clinicdb, tmp_path):
    for number, path in enumerate(sorted((tmp_path / "source" / "Ground Truth").iterdir())):
        save(path, 255 - mask(number))
    summary = ClinicDB().convert(tmp_path / "source", dataset_id=7)
    assert "in 20 of 20 cases: are the masks inverted" in str(summary)
    lines, problems = inspect_dataset(RawDataset.open("7"))
    assert problems == []
    assert "in 20 of 20 cases: are the masks inverted" in "\n".join(lines)
    assert "masks inverted" not in "\n".join(inspect_dataset(RawDataset.open("501"))[0])


def test_inverted_labels_of_volumes_are_mentioned(raw):
    folder = raw / "Dataset001_Volumes"
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    labels = {"background": 0, "organ": 1}
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1})
    )
    label = np.ones((8, 8, 8), np.uint8)
    label[3:5, 3:5, 3:5] = 0
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(size=(8, 8, 8)), np.eye(4)), folder / "imagesTr/a_0000.nii.gz"
    )
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr/a.nii.gz")
    assert "are the masks inverted" in "\n".join(inspect_dataset(RawDataset.open("1"))[0])
