import dataset_phantoms as phantoms
import imagecodecs
import numpy as np
import pytest
from dataset_phantoms import mask, picture, save, snapshot
from PIL import Image

from nnunetv2_xattnres.dataset_conversion.colondb import SEQUENCE_OF_FRAME, ColonDB
from nnunetv2_xattnres.errors import InputError


@pytest.mark.parametrize("build", [phantoms.colondb_original, phantoms.colondb_png])
def test_both_layouts_give_the_same_pixels(tmp_path, build):
    folder = ColonDB().convert(build(tmp_path / "source"), raw=tmp_path / "raw").folder
    assert folder.name == "Dataset502_CVCColonDB"
    images = sorted(folder.glob("images*/*.png"))
    assert len(images) == 20
    for path in images:
        name = path.name.removesuffix("_0000.png")
        number = int(name.removeprefix("colondb_"))
        assert np.array_equal(np.asarray(Image.open(path)), picture(number))
        (label,) = folder.glob(f"labels*/{name}.png")
        assert np.array_equal(np.asarray(Image.open(label)), mask(number) > 0)


def test_sequences_are_those_of_the_readme():
    frames = {}
    for frame, sequence in SEQUENCE_OF_FRAME.items():
        frames.setdefault(int(sequence), []).append(frame)
    assert {sequence: (found[0], found[-1]) for sequence, found in frames.items()} == {
        **{1: (1, 38), 2: (39, 60), 3: (61, 76), 4: (301, 320), 5: (77, 97), 6: (98, 148), 7: (149, 155)},
        **{8: (321, 340), 9: (156, 203), 10: (204, 208), 11: (209, 263), 12: (341, 360), 13: (361, 380)},
        **{14: (264, 273), 15: (274, 300)},
    }
    assert all(found == list(range(found[0], found[-1] + 1)) for found in frames.values())


def test_sequence_split_shares_no_sequence(tmp_path):
    source = phantoms.colondb_png(tmp_path / "source", [1, 2, 40, 41, 62, 63, 78, 79, 301, 302, 380])
    split = ColonDB(split="sequence").convert(source, raw=tmp_path / "raw").split
    parts = [split.folds[0]["train"], split.folds[0]["val"], split.test]
    sequences = [{SEQUENCE_OF_FRAME[int(name[-3:])] for name in part} for part in parts]
    assert sum(map(len, sequences)) == len(set().union(*sequences)) == 6


@pytest.mark.parametrize("build", [phantoms.colondb_original, phantoms.colondb_png])
def test_every_problem_is_listed_and_nothing_is_written(tmp_path, build):
    source = build(tmp_path / "source")
    original = build is phantoms.colondb_original
    images, masks = (source, source) if original else (source / "images", source / "masks")

    def file(kind, number):
        folder = images if kind == "image" else masks
        stem = f"p{number}" if original and kind == "mask" else str(number)
        return next(path for path in folder.iterdir() if path.stem == stem)

    expected = []
    for number, kind, pixels, reason in (
        (30, "mask", mask(30, (24, 31)), "is 31x24 pixels"),
        (31, "image", np.dstack([picture(31), mask(31)]), "is an RGBA image"),
        (32, "image", picture(32).astype(np.uint16), "has 16 bits a channel, expected 8"),
        (
            33,
            "mask",
            mask(33) // 255,
            "holds 0 and 1, expected black (0) and white (255): if 1 is the structure, add --mask-threshold 0",
        ),
        (34, "mask", np.repeat(mask(34)[..., None], 3, axis=2) * np.uint8([1, 0, 0]), "has a third colour"),
    ):
        path = file(kind, number)
        if pixels.dtype == np.uint16 and not original:  # no 16-bit RGB from PIL: 16-bit grey
            pixels = pixels[..., 0]
        save(path, pixels)
        expected.append((path, reason))
    path = file("image", 35)
    path.write_bytes(path.read_bytes()[:-400])
    expected.append((path, "is unreadable or cut off"))
    path = file("mask", 36)
    expected.append((file("image", 36), "has no mask"))
    path.unlink()
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as caught:
        ColonDB().convert(source, raw=tmp_path / "raw")
    for path, reason in expected:
        assert any(problem.startswith(f"{path}: {reason}") for problem in caught.value.problems), (path, reason)
    assert len(caught.value.problems) == len(expected)
    assert snapshot(tmp_path) == before


def test_one_folder_of_two(tmp_path):
    source = phantoms.colondb_png(tmp_path / "source")
    (source / "masks").rename(tmp_path / "masks")
    with pytest.raises(InputError, match="has a folder images without the other one"):
        ColonDB().convert(source, raw=tmp_path / "raw")


def test_16_bit_colour_is_refused(tmp_path):
    """PIL reads 16-bit RGB as 8-bit RGB without a word."""
    source = phantoms.colondb_png(tmp_path / "source")
    (source / "images" / "31.png").write_bytes(imagecodecs.png_encode(picture(31).astype(np.uint16) * 200))
    with pytest.raises(InputError, match=r"31\.png: has 16 bits a channel"):
        ColonDB().convert(source, raw=tmp_path / "raw")


def test_real_originals_equal_the_png_form(shared_data, tmp_path):
    folder = ColonDB().convert(shared_data / "CVC-ColonDB" / "original_sample", raw=tmp_path).folder
    images = sorted(folder.glob("images*/*.png"))
    assert len(images) == 8
    for path in images:
        name = path.name.removesuffix("_0000.png")
        (label,) = folder.glob(f"labels*/{name}.png")
        png = shared_data / "CVC-ColonDB" / "png"
        file = f"{int(name[-3:])}.png"
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(png / "images" / file)))
        assert np.array_equal(np.asarray(Image.open(label)), np.asarray(Image.open(png / "masks" / file)) > 127)
