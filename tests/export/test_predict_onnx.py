"""The parts of the script that is written beside a network: each does what nnU-Net does."""

import numpy as np
import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from scipy.ndimage import binary_fill_holes

from nnunetv2_xattnres.export.surroundings import GAUSSIAN_MAXIMUM, NORMALISATIONS, gaussian_line

predict_onnx = pytest.importorskip("nnunetv2_xattnres.export.predict_onnx", reason="the script needs onnxruntime")


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_normalisation(name, mask):
    random = np.random.default_rng(0)
    image = random.uniform(0, 255, (1, 20, 30)).astype(np.float32)
    inside = random.random(image.shape) < 0.7
    facts = {"mean": 100.0, "std": 40.0, "percentile_00_5": 20.0, "percentile_99_5": 200.0}
    scheme = getattr(default_normalization_schemes, name)(use_mask_for_norm=mask, intensityproperties=facts)
    expected = scheme.run(image.copy(), np.where(inside, 0, -1))
    how = {"normalisation": name, "use_mask": mask, "intensity_properties": facts}
    found = predict_onnx.normalise(image, inside, how)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_rgb_out_of_range():
    how = {"normalisation": "RGBTo01Normalization", "use_mask": False, "intensity_properties": {}}
    with pytest.raises(ValueError, match="values from 0 to 255"):
        predict_onnx.normalise(np.full((1, 2, 2), 300.0), np.ones((1, 2, 2), bool), how)


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 30, 30), (4, 1, 7)])
def test_holes(shape):
    filled = 0
    for seed in range(20):
        mask = np.random.default_rng(seed).random(shape) < 0.6
        expected = binary_fill_holes(mask)
        filled += int((expected & ~mask).sum())
        np.testing.assert_array_equal(predict_onnx.fill_holes(mask), expected)
    assert filled or 1 in shape  # a flat mask has no holes: the outside is next to each of its pixels


def test_a_winding_way_out_is_found():
    mask = np.ones((1, 9, 9), bool)
    mask = np.pad(mask, ((1, 1), (0, 0), (0, 0)), constant_values=True)
    mask[1, 1, 1:8] = mask[1, 1:8, 7] = mask[1, 7, 2:8] = mask[1, 4:8, 2] = mask[1, 4, 2:5] = False
    np.testing.assert_array_equal(predict_onnx.fill_holes(mask), np.ones_like(mask))
    mask[1, 1, 0] = False
    np.testing.assert_array_equal(predict_onnx.fill_holes(mask), mask)


@pytest.mark.parametrize(("tile", "step"), [(16, 0.5), (17, 0.5), (20, 0.3)])
def test_where_tiles_begin(tile, step):
    for length in range(tile, 5 * tile):
        assert predict_onnx.starts(length, tile, step) == compute_steps_for_sliding_window([length], [tile], step)[0]
    assert predict_onnx.starts(7, 1, step) == list(range(7))


@pytest.mark.parametrize("size", [(16, 16), (31, 40), (96, 17, 8)])
def test_the_weights_of_a_tile(size):
    expected = compute_gaussian(size, value_scaling_factor=GAUSSIAN_MAXIMUM, device=torch.device("cpu")).numpy()
    np.testing.assert_array_equal(predict_onnx.gaussian([gaussian_line(n) for n in size], GAUSSIAN_MAXIMUM), expected)
