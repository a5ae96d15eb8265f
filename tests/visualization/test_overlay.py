"""Masks painted over images: colours, outlines, proportions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nnunetv2_xattnres.visualization.overlay import CLASS_COLOURS, data_uri, outline, overlay, resize, to_rgb


def square(value=1):
    labels = np.zeros((20, 24), dtype=np.uint8)
    labels[5:15, 6:18] = value
    return labels


def test_fill_changes_the_class_and_nothing_else():
    image = np.full((20, 24, 3), 100, dtype=np.uint8)
    labels = square()
    labels[5:15, 12:18] = 2
    painted = overlay(image, filled=labels, opacity=0.5)
    assert (painted[labels == 0] == 100).all()
    for value in (1, 2):
        expected = (0.5 * 100 + 0.5 * CLASS_COLOURS[value - 1]).astype(np.uint8)
        assert (painted[labels == value] == expected).all()
    assert (image == 100).all()  # the image itself is left alone


def test_more_classes_than_colours():
    painted = overlay(np.zeros((20, 24, 3), dtype=np.uint8), filled=square(len(CLASS_COLOURS) + 1), opacity=1.0)
    assert (painted[10, 10] == CLASS_COLOURS[0].astype(np.uint8)).all()


def test_outline_is_the_inner_rim():
    rim = outline(square(), 1)
    assert rim.sum() == 2 * 10 + 2 * 12 - 4
    assert not rim[square() == 0].any()
    assert not rim[7:13, 8:16].any()
    painted = overlay(np.full((20, 24, 3), 100, dtype=np.uint8), outlined=square())
    assert (painted[rim] == 255).all()
    assert (painted[9, 12] == 100).all()


def test_empty_masks_leave_the_image():
    image = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    empty = np.zeros((20, 24), dtype=np.uint8)
    assert (overlay(image, filled=empty, outlined=empty) == image).all()


@pytest.mark.parametrize(("spacing", "height"), [((1.0, 1.0), 100), ((2.0, 1.0), 200), ((0.5, 1.0), 50)])
def test_true_proportions(spacing, height):
    labels = np.zeros((10, 20), dtype=np.int32)
    labels[2:5, 3:9] = 7
    resized = resize(labels, spacing, 200, labels=True)
    assert resized.shape == (height, 200)
    assert set(np.unique(resized)) == {0, 7}
    assert (resized == 7).mean() == pytest.approx((labels == 7).mean())


def test_colour_images_keep_their_colours():
    image = np.zeros((3, 4, 5))
    image[0] = 200
    assert (to_rgb(image) == (200, 0, 0)).all()


def test_grey_images_are_windowed():
    ct = np.linspace(-1000, 1000, 201).reshape(1, 1, 201)
    grey = to_rgb(ct, ct=True)[0, :, 0]
    assert grey[ct[0, 0] <= -160].max() == 0
    assert grey[ct[0, 0] >= 240].min() == 255
    assert grey[ct[0, 0] == 40] == 127
    mr = np.concatenate([np.linspace(0, 1, 999), [1000.0]]).reshape(1, 1, 1000)  # one bright voxel must not darken all
    assert to_rgb(mr)[0, 500, 0] > 100


def test_data_uri_is_a_jpeg():
    image = np.full((8, 9, 3), (200, 30, 30), dtype=np.uint8)
    head, body = data_uri(image).split(",")
    assert head == "data:image/jpeg;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert np.abs(decoded.astype(int) - image).max() < 12
