import numpy as np
from PIL import Image

from nnunetv2_xattnres.visualization.contact_sheet import Tile, draw_contact_sheet, make_tile

CYAN = (0, 229, 255)  # the outline of class 1


def test_slice_with_the_most_classes():
    label = np.zeros((4, 8, 8), int)
    label[0] = 1
    label[2, 0] = (1, 2, 0, 0, 0, 0, 0, 0)
    label[3, 0] = (1, 2, 1, 1, 0, 0, 0, 0)
    tile = make_tile("case", np.zeros((1, 4, 8, 8)), label, (2.0, 3.0, 1.5))
    assert np.array_equal(tile.label, label[3])
    assert tile.title == "case, slice 3"
    assert tile.aspect == 2


def test_without_a_label():
    tile = make_tile("case", np.arange(4 * 16.0).reshape(1, 4, 4, 4), None, (1, 1, 1))
    assert tile.label is None
    assert tile.image.shape == (4, 4, 3)


def test_patient_is_drawn_head_on():
    label = np.zeros((1, 2, 3), int)
    label[0, 0, 0] = 1
    image = label[None] * 100.0
    turned = make_tile("case", image, label, (1, 1, 1), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert turned.label[1, 2] == 1 and turned.label.sum() == 1
    assert turned.image[..., 0].argmax() == turned.label.argmax()


def test_large_pictures_are_thinned_alike():
    label = np.zeros((1, 2000, 3000), int)
    label[0, 500:900, 1000:1300] = 1
    image = np.repeat(label[None] * 200.0, 3, axis=0)
    tile = make_tile("case", image, label, (999, 1, 1))
    assert max(tile.label.shape) < 800
    assert np.array_equal(tile.image[..., 0] > 100, tile.label == 1)


def outline_column(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found = np.abs(pixels - CYAN).max(axis=2) < 60
    found[-80:] = False  # the legend
    return np.nan if not found.any() else np.nonzero(found)[1].mean() / found.shape[1]


def test_outlines_stand_where_the_label_is(tmp_path):
    image = np.full((40, 40, 3), 90, np.uint8)
    columns = {}
    for name, place in (("left", slice(4, 12)), ("right", slice(28, 36)), ("none", slice(0, 0))):
        label = np.zeros((40, 40), int)
        label[10:30, place] = 1
        draw_contact_sheet(tmp_path / f"{name}.png", [Tile(name, image, label)], {0: "background", 1: "polyp"}, "title")
        columns[name] = outline_column(tmp_path / f"{name}.png")
    quarter = 1 / 4  # the first of four columns
    assert abs(columns["left"] - 0.2 * quarter) < 0.02
    assert abs(columns["right"] - 0.8 * quarter) < 0.02
    assert np.isnan(columns["none"])


def test_many_tiles_of_many_shapes(tmp_path):
    tiles = [Tile(str(n), np.zeros((20 + 7 * n, 30, 3), np.uint8), None, 1 + n / 3) for n in range(6)]
    draw_contact_sheet(tmp_path / "sheet.png", tiles, {0: "background"}, "title")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] == 1320
