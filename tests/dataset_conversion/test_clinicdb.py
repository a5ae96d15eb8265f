import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dataset_phantoms import clinicdb, mask, picture, save, snapshot
from PIL import Image

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.dataset_conversion.clinicdb import SEQUENCE_OF_FRAME, ClinicDB, convert_clinicdb
from nnunetv2_xattnres.errors import InputError


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF"])
def test_both_layouts_give_the_same_pixels(tmp_path, ending):
    folder = ClinicDB().convert(clinicdb(tmp_path / "source", ending=ending), raw=tmp_path / "raw").folder
    assert folder.name == "Dataset501_CVCClinicDB"
    description = load(folder / "dataset.json")
    assert description["channel_names"] == {"0": "rgb_to_0_1", "1": "rgb_to_0_1", "2": "rgb_to_0_1"}
    assert description["labels"] == {"background": 0, "polyp": 1}
    assert (description["numTraining"], description["file_ending"]) == (18, ".png")
    assert "Bernal" in description["citation"]
    for part, count in (("Tr", 18), ("Ts", 2)):
        images = sorted((folder / f"images{part}").iterdir())
        assert len(images) == count
        for path in images:
            name = path.name.removesuffix("_0000.png")
            number = int(name.removeprefix("clinicdb_"))
            assert np.array_equal(np.asarray(Image.open(path)), picture(number))
            assert np.array_equal(np.asarray(Image.open(folder / f"labels{part}" / f"{name}.png")), mask(number) > 0)


def test_the_former_function_still_converts(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"now ClinicDB\(…\)\.convert"):
        summary = convert_clinicdb(clinicdb(tmp_path / "source"), seed=1, raw=tmp_path / "raw")
    assert summary.folder.name == "Dataset501_CVCClinicDB"


def test_mirror_reads_sequences_from_metadata(tmp_path):
    source = tmp_path / "source"
    clinicdb(source / "PNG")
    with (source / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame_id", "sequence_id", "png_image_path"])
        writer.writerows([number, f"s{number % 4}", "..."] for number in range(1, 21))
    cases = load(ClinicDB(split="sequence").convert(source, raw=tmp_path / "raw").folder / "cases.json")
    assert cases["clinicdb_006"] == {
        "image": "PNG/Original/6.png",
        "mask": "PNG/Ground Truth/6.png",
        "sequence": "s2",
    }


def test_metadata_of_something_else_is_left_alone(tmp_path):
    source = clinicdb(tmp_path / "data" / "source")
    (source.parent / "metadata.csv").write_text("patient,age\n1,50\n")
    assert len(ClinicDB().convert(source, raw=tmp_path / "raw").split.training) == 18


def test_short_rows_of_metadata_are_named(tmp_path):
    source = clinicdb(tmp_path / "source")
    (source / "metadata.csv").write_text("sequence_id,frame_id\ns1\n")
    with pytest.raises(InputError, match=r"metadata\.csv: expected columns frame_id and sequence_id"):
        ClinicDB().convert(source, raw=tmp_path / "raw")


def test_tiff_in_which_zero_is_white(tmp_path):
    source = clinicdb(tmp_path / "source", ending="tif")
    for path in (source / "Ground Truth").iterdir():
        tifffile.imwrite(path, 255 - mask(int(path.stem)), photometric="miniswhite")
    folder = ClinicDB().convert(source, raw=tmp_path / "raw").folder
    for path in folder.glob("labels*/*.png"):
        assert np.array_equal(np.asarray(Image.open(path)), mask(int(path.stem[-3:])) > 0)


def test_frame_split_is_eight_one_one(tmp_path):
    split = ClinicDB().convert(clinicdb(tmp_path / "source"), raw=tmp_path / "raw").split
    (fold,) = split.folds
    assert (len(fold["train"]), len(fold["val"]), len(split.test)) == (16, 2, 2)
    assert len({*fold["train"], *fold["val"], *split.test}) == 20


def test_lists_of_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for part, names in (("train", "1\n3\n5\n"), ("val", "7.png\n"), ("test", "clinicdb_009\n")):
        (tmp_path / f"{part}.txt").write_text(names)
    lists = [text for part in ("train", "val", "test") for text in (f"--{part}", str(tmp_path / f"{part}.txt"))]
    assert main(["convert", "clinicdb", str(clinicdb(tmp_path / "source")), "--split", "file", *lists]) == 0
    assert "15 frames are in none of the lists and were left out" in capsys.readouterr().out
    folder = tmp_path / "raw" / "Dataset501_CVCClinicDB"
    assert load(folder / "splits_final.json") == [
        {"train": ["clinicdb_001", "clinicdb_003", "clinicdb_005"], "val": ["clinicdb_007"]}
    ]
    assert [path.name for path in (folder / "imagesTs").iterdir()] == ["clinicdb_009_0000.png"]
    assert len(list((folder / "labelsTr").iterdir())) == 4


def test_built_in_sequences_cover_all_frames():
    assert list(SEQUENCE_OF_FRAME) == list(range(1, 613))
    assert len(set(SEQUENCE_OF_FRAME.values())) == 29
    assert (SEQUENCE_OF_FRAME[25], SEQUENCE_OF_FRAME[26], SEQUENCE_OF_FRAME[612]) == ("1", "2", "29")


def test_grey_seams_between_black_and_white_are_accepted(tmp_path):
    source = clinicdb(tmp_path / "source")
    noisy = mask(1, (96, 128))
    noisy[4, 3:8] = (100, 127, 128, 160, 255)  # 4 of 12288 pixels are grey
    save(source / "Ground Truth" / "1.png", noisy)
    save(source / "Original" / "1.png", picture(1, (96, 128)))
    folder = ClinicDB().convert(source, raw=tmp_path / "raw").folder
    (label,) = folder.glob("labels*/clinicdb_001.png")
    assert np.asarray(Image.open(label))[4, 3:8].tolist() == [0, 0, 1, 1, 1]


def test_every_problem_is_listed_and_nothing_is_written(tmp_path):
    source = clinicdb(tmp_path / "source")
    originals, masks = source / "Original", source / "Ground Truth"
    save(masks / "1.png", mask(1, (24, 31)))
    (masks / "2.png").unlink()
    (originals / "3.png").unlink()
    (originals / "4.png").write_bytes((originals / "4.png").read_bytes()[:300])
    (originals / "5.png").write_text("not an image")
    save(originals / "6.PNG", picture(6))
    save(originals / "07.png", picture(7))
    save(originals / "8.png", np.dstack([picture(8), mask(8)]))
    save(originals / "9.png", mask(9).astype(np.uint16) * 257)
    third = mask(10)
    third[15:20] = 127
    save(masks / "10.png", third)
    red = np.repeat(mask(11)[..., None], 3, axis=2)
    red[0, :10] = (255, 0, 0)
    save(masks / "11.png", red)
    save(masks / "12.png", mask(12) // 255)  # 0 and 1, as many programs write masks
    for folder in (originals, masks):
        (folder / "13.png").unlink()
        (folder / "13.png").symlink_to("../.git/annex/objects/13")
    palette = Image.fromarray(mask(14)).convert("P")
    (masks / "14.png").unlink()
    palette.save(masks / "14.tif")
    (tmp_path / "raw" / "Dataset501_CVCClinicDB").mkdir(parents=True)
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as caught:
        ClinicDB().convert(source, raw=tmp_path / "raw")
    text = str(caught.value)
    for path, reason in (
        (tmp_path / "raw" / "Dataset501_CVCClinicDB", "exists already"),
        (masks / "1.png", "is 31x24 pixels, its image 1.png is 32x24"),
        (originals / "2.png", "has no mask"),
        (masks / "3.png", "is a mask without an image"),
        (originals / "4.png", "is unreadable or cut off"),
        (originals / "5.png", "is unreadable"),
        (originals / "6.png", "a second file for the same case, beside 6.PNG"),
        (originals / "7.png", "a second file for the same case, beside 07.png"),
        (originals / "8.png", "is an RGBA image"),
        (originals / "9.png", "has 16 bits a channel"),
        (masks / "12.png", "holds no white: its brightest value is 1, expected 255"),
        (originals / "13.png", "is a link to ../.git/annex/objects/13, which does not exist"),
        (masks / "13.png", "is a link to"),
        (masks / "14.tif", "has a colour palette, expected RGB or grey"),
        (masks / "11.png", "is neither black nor white in 1.3% of its pixels: a third colour"),
        (masks / "10.png", "is neither black nor white in 20.8% of its pixels: a third colour"),
    ):
        assert f"{path}: {reason}" in text, text
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("missing", ["Original", "Ground Truth", ".", "images"])
def test_a_source_that_is_half_there(tmp_path, missing):
    source = clinicdb(tmp_path / "source")
    if missing == "images":
        for path in [*source.glob("*/*")]:
            path.unlink()
    else:
        (source / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"source") as caught:
        ClinicDB().convert(source, raw=tmp_path / "raw")
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "raw").exists()


def test_real_frames(shared_data, tmp_path):
    folder = ClinicDB().convert(shared_data / "CVC-ClinicDB" / "TIF", raw=tmp_path).folder
    png = shared_data / "CVC-ClinicDB" / "PNG"
    for path in folder.glob("images*/*.png"):
        name = path.name.removesuffix("_0000.png")
        number = int(name[-3:])
        original = np.asarray(Image.open(png / "Original" / f"{number}.png"))
        assert np.array_equal(np.asarray(Image.open(path)), original)
        (label,) = folder.glob(f"labels*/{name}.png")
        polyp = np.asarray(Image.open(png / "Ground Truth" / f"{number}.png")).max(axis=2) > 127
        assert np.array_equal(np.asarray(Image.open(label)), polyp)
