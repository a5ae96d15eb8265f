import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.routing_maps.partitions import (
    AWAY,
    BOUNDARY,
    BY_CLASS,
    BY_DISTANCE,
    BY_OUTCOME,
    EVERYWHERE,
    boundary_distance,
    partitions,
)

LABELS = Labels({"whole": (1, 2), "core": (2,)}, frozenset({0, 1, 2, 3}), ignore=3)


def counts(partition):
    numbers = partition.counts()
    return {group: int(numbers[list(members)].sum()) for group, members in partition.groups.items()}


def line(*runs):
    """One row of labels, as a volume of one slice."""
    return np.concatenate([np.full(length, label, dtype=np.int32) for label, length in runs])[None, None]


def test_distance_is_to_the_nearest_pixel_of_another_label_whichever_it_is():
    objects = line((0, 4), (1, 5), (2, 3))
    assert boundary_distance(objects, (1, 1, 1)).ravel().tolist() == [4, 3, 2, 1, 1, 2, 3, 2, 1, 1, 2, 3]
    assert boundary_distance(objects, (1, 1, 2.5)).ravel()[0] == 10
    assert np.isinf(boundary_distance(line((1, 3)), (1, 1, 1))).all()


def test_distance_is_scipys_in_three_axes():
    objects = np.random.default_rng(0).random((6, 9, 11)).round().astype(int)
    objects[1:5, 2:8, 3:10] = 1
    expected = sum(distance_transform_edt(objects == label, sampling=(3, 1, 0.5)) for label in (0, 1))
    assert np.allclose(boundary_distance(objects, (3, 1, 0.5)), expected, atol=1e-5)


def test_groups_by_distance_are_signed_and_overlap_where_they_should():
    objects = line((0, 30), (1, 16))
    found = {p.name: p for p in partitions(LABELS, objects >= 0, objects, None, (999, 1, 1))}
    seen = counts(found[BY_DISTANCE])
    assert seen["outside, up to 2"] == seen["inside, up to 2"] == 2
    assert (seen["inside, 10 to 20"], seen["inside, over 20"], seen["outside, over 20"]) == (6, 0, 10)
    assert (seen[BOUNDARY], seen[AWAY]) == (4, 25 + 11)
    assert BY_OUTCOME not in found


def test_edges_are_in_the_unit_of_the_spacing():
    objects = line((0, 30), (1, 16))
    by_distance = partitions(LABELS, objects >= 0, objects, None, (3, 1, 0.5), (1.0, 2.5, 5.0, 10.0))[2]
    assert counts(by_distance)["inside, up to 1"] == 2
    assert counts(by_distance)["inside, 5 to 10"] == 6


def test_classes_are_regions_and_ignored_pixels_count_nowhere():
    objects = line((0, 4), (1, 3), (2, 2), (3, 5))
    predicted = line((0, 3), (1, 2), (2, 4), (1, 5))
    counted = np.ones(objects.shape, dtype=bool)
    counted[..., 0] = False  # outside nnU-Net's crop
    found = {p.name: p for p in partitions(LABELS, counted, objects, predicted, (1, 1, 1))}
    assert counts(found[EVERYWHERE]) == {EVERYWHERE: 8}
    assert counts(found[BY_CLASS]) == {"background": 3, "whole": 5, "core": 2}
    seen = counts(found[BY_OUTCOME])
    assert (seen["right"], seen["wrong"]) == (5, 3)
    assert (seen["right: object"], seen["wrong: false object"], seen["wrong: another class"]) == (3, 1, 2)
    assert seen["wrong: missed object"] == 0


def test_sums_are_over_the_pixels_of_each_number():
    objects = line((0, 2), (1, 3))
    everywhere, by_class, *_ = partitions(LABELS, objects >= 0, objects, None, (1, 1, 1))
    values = np.array([[[1, 2, 10, 20, 30]]], dtype=np.float32)
    assert everywhere.sums(values).tolist() == [63]
    assert by_class.sums(values)[:2].tolist() == pytest.approx([3, 60])
