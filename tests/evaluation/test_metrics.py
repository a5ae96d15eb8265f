"""The numbers themselves: against medpy, against MONAI, and the corner cases of both conventions."""

import math

import numpy as np
import pytest
from medpy.metric import binary as medpy
from scipy.ndimage import gaussian_filter

from nnunetv2_xattnres.evaluation.cases import Task, score_case
from nnunetv2_xattnres.evaluation.conventions import score_masks
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.evaluation.metrics import surface_distances
from nnunetv2_xattnres.evaluation.scoring import CATALOGUE

NAN = float("nan")


def random_pair(dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Two overlapping blobs of odd shape somewhere in the image, and an anisotropic spacing."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(8, 40 if dimensions == 2 else 18, dimensions))
    field = gaussian_filter(rng.normal(size=shape), 1.5)
    other = field + 0.7 * gaussian_filter(rng.normal(size=shape), 1.5)
    level = np.quantile(field, rng.uniform(0.5, 0.95))
    return field > level, other > level, tuple(rng.uniform(0.3, 5.0, dimensions))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_equals_medpy_on_random_pairs(dimensions):
    """Ours works in the box around both masks, medpy on the whole image."""
    for seed in range(200):
        reference, prediction, spacing = random_pair(dimensions, seed)
        task = Task("case", None, None, None, Labels({"a": (1,)}, frozenset({0, 1})), "nnunet", True)
        row = score_case(task, reference.astype(np.int32), prediction.astype(np.int32), spacing)[0]
        assert row["dice"] == pytest.approx(medpy.dc(prediction, reference), rel=1e-12)
        assert row["iou"] == pytest.approx(medpy.jc(prediction, reference), rel=1e-12)
        assert row["hd95"] == pytest.approx(medpy.hd95(prediction, reference, spacing), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_transunet_distances_are_in_voxels(dimensions):
    for seed in range(20):
        reference, prediction, spacing = random_pair(dimensions, seed)
        scores = score_masks(reference, prediction, spacing, "transunet")
        assert scores.hd95 == pytest.approx(medpy.hd95(prediction, reference), rel=1e-9, abs=1e-12)
        assert scores.dice == pytest.approx(medpy.dc(prediction, reference), rel=1e-12)


def test_masks_at_the_edge_of_the_image():
    mask = np.ones((5, 6), dtype=bool)
    half = mask.copy()
    half[:, 3:] = False
    assert score_masks(mask, half, (2.0, 1.0)).hd95 == pytest.approx(medpy.hd95(half, mask, (2.0, 1.0)))
    assert score_masks(mask, mask, (2.0, 1.0), metrics=CATALOGUE, tolerance=0.0) == (1.0, 1.0, 0.0, 1.0)


def test_monai_defines_hd95_differently():
    """MONAI takes the larger of the two directed percentiles, medpy and we the percentile of all distances."""
    import torch
    from monai import metrics as monai

    reference = np.zeros((40, 40), dtype=bool)
    prediction = reference.copy()
    reference[5:20, 5:20] = True
    prediction[5:20, 5:20] = True
    prediction[30:33, 30:33] = True  # a false island: only the distances from the prediction see it
    as_batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
    theirs = monai.compute_hausdorff_distance(*as_batch, percentile=95, spacing=(1.0, 2.0)).item()
    ours = score_masks(reference, prediction, (1.0, 2.0)).hd95
    forth = monai.compute_hausdorff_distance(*as_batch, percentile=95, spacing=(1.0, 2.0), directed=True).item()
    back = monai.compute_hausdorff_distance(*as_batch[::-1], percentile=95, spacing=(1.0, 2.0), directed=True).item()
    assert ours == pytest.approx(medpy.hd95(prediction, reference, (1.0, 2.0)))
    assert theirs == pytest.approx(max(forth, back))
    assert forth - back > 1.0
    assert abs(theirs - ours) > 1.0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_nsd_equals_monai(dimensions):
    """Both count border voxels; distances that are the tolerance but for rounding do not occur in these pairs."""
    import torch
    from monai import metrics as monai

    values = []
    for seed in range(10):
        reference, prediction, spacing = random_pair(dimensions, seed)
        tolerance = float(np.random.default_rng(seed).uniform(0.2, 2.0))
        as_batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
        theirs = monai.compute_surface_dice(*as_batch, [tolerance], include_background=True, spacing=spacing).item()
        values.append(score_masks(reference, prediction, spacing, metrics=["nsd"], tolerance=tolerance).nsd)
        assert values[-1] == pytest.approx(theirs, abs=1e-6)
        swapped = score_masks(prediction, reference, spacing, metrics=["nsd"], tolerance=tolerance).nsd
        assert swapped == values[-1]
    assert len(set(values)) > 5  # else all might be 0 or 1


def test_nsd_is_not_weighted_by_area():
    """MONAI's other definition, that of surface-distance, weights by the length of the contour between voxels."""
    import torch
    from monai import metrics as monai

    reference, prediction, spacing = random_pair(2, 3)
    as_batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    weighted = monai.compute_surface_dice(*as_batch, [1.0], use_subvoxels=True, **options).item()
    ours = score_masks(reference, prediction, spacing, metrics=["nsd"], tolerance=1.0).nsd
    assert abs(ours - weighted) > 0.01


def test_a_distance_that_exceeds_the_tolerance_by_rounding_alone_is_within():
    """A NIfTI header stores 0.3 as 0.300000012."""
    masks = np.zeros((2, 9, 40), dtype=bool)
    masks[0, 2:7, 5], masks[1, 2:7, 15] = True, True
    step = float(np.float32(0.3))
    assert 10 * step > 3.0
    assert score_masks(*masks, (1.0, step), metrics=["nsd"], tolerance=3.0).nsd == 1
    assert score_masks(*masks, (1.0, step), metrics=["nsd"], tolerance=2.999).nsd == 0


def test_distances_are_computed_once_for_hd95_and_nsd(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return surface_distances(*arguments)

    monkeypatch.setattr("nnunetv2_xattnres.evaluation.conventions.surface_distances", counted)
    reference, prediction, spacing = random_pair(2, 0)
    score_masks(reference, prediction, spacing, metrics=["hd95", "nsd"], tolerance=1.0)
    assert len(calls) == 1
    score_masks(reference, prediction, spacing, metrics=["dice", "iou"])
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("convention", "in_reference", "in_prediction", "expected"),
    [
        ("nnunet", False, True, (0.0, 0.0, NAN, 0.0)),
        ("nnunet", True, False, (0.0, 0.0, NAN, 0.0)),
        ("nnunet", False, False, (NAN, NAN, NAN, NAN)),
        ("nnunet", True, True, (1.0, 1.0, 0.0, 1.0)),
        ("transunet", False, True, (1.0, 1.0, 0.0, 1.0)),
        ("transunet", True, False, (0.0, 0.0, 0.0, 0.0)),
        ("transunet", False, False, (0.0, 0.0, 0.0, 0.0)),
        ("transunet", True, True, (1.0, 1.0, 0.0, 1.0)),
    ],
)
def test_corner_cases(convention, in_reference, in_prediction, expected):
    masks = []
    for present in (in_reference, in_prediction):
        mask = np.zeros((6, 7), dtype=bool)
        mask[2:4, 2:5] = present
        masks.append(mask)
    scores = score_masks(*masks, (1.0, 3.0), convention, metrics=CATALOGUE, tolerance=1.0)
    for value, wanted in zip(scores, expected, strict=True):
        assert value == wanted or (math.isnan(value) and math.isnan(wanted))
