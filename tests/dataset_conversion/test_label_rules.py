import json

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_xattnres.dataset_conversion.label_rules import problems_of_labels

VALID = [
    ({"background": 0}, None),
    ({"background": 0, "b": 2, "a": 1}, None),
    ({"background": "0", "a": "1"}, None),
    ({"background": 0, "a": 1.0}, None),
    ({"background": 0, "a": [1]}, None),
    ({"background": 0, "a": 1, "ignore": 2}, None),
    ({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2]),
    ({"background": 0, "whole": [1, 2], "again": [2, 1], "core": 2, "ignore": 3}, [1, 1, 2]),
]
REFUSED = [
    ({"background": 0, "polyp": 2}, None, "labels have the values 0, 2: nnU-Net needs 0, 1, 2 and so on"),
    ({"background": 0, "a": 10**15}, None, "labels have the values 0, 1000000000000000: nnU-Net needs 0, 1, 2 and"),
    ({"nothing": 0, "polyp": 1}, None, 'labels need "background": 0'),
    ({"background": 1, "a": 0}, None, 'labels need "background": 0'),
    ({"background": [0], "a": 1}, None, 'labels need "background": 0'),
    ({}, None, 'labels need "background": 0'),
    ({"background": 0, "a": 1, "ignore": 3}, None, "label ignore is 3: nnU-Net needs the number after all others, 2"),
    ({"background": 0, "a": 1, "ignore": [2]}, None, "label ignore is [2]: nnU-Net needs the number after all others"),
    ({"background": 0, "a": 2, "ignore": 1}, None, "labels have the values 0, 2: nnU-Net needs"),
    (
        {"background": 0, "whole": [1, 2], "core": [2]},
        None,
        "regions_class_order must list 2 values, one each for whole",
    ),
    ({"background": 0, "whole": [1, 2], "core": [2]}, [1], "regions_class_order must list 2 values, one each for"),
    ({"background": 0, "whole": [1, 3], "core": [3]}, [1, 3], "labels have the values 0, 1, 3: nnU-Net needs"),
]
MISTAKEN = [
    ({"background": 0, "a": 1, "b": []}, None, "label b has no value"),
    ({"background": 0, "a": 1.5}, None, "label a is 1.5: nnU-Net takes whole numbers, and cuts off the rest"),
    ({"background": 0, "a": 1, "b": 1}, None, "labels a and b are all 1: nnU-Net makes one class of them"),
    ({"background": 0, "air": 0, "a": 1}, None, "labels background and air are all 0: nnU-Net makes one class of them"),
]


def nnunet_accepts(labels, order):
    """As in nnU-Net's ``verify_dataset_integrity``, which has this in the midst of reading files."""
    try:
        manager = LabelManager(labels, regions_class_order=order)
    except (AssertionError, RuntimeError):
        return False
    return bool(np.all(np.ediff1d(manager.all_labels + [manager.ignore_label] * manager.has_ignore_label) == 1))


@pytest.mark.parametrize(("labels", "order"), VALID, ids=json.dumps)
def test_labels_that_nnunet_accepts(labels, order):
    assert problems_of_labels(labels, order) == []
    assert nnunet_accepts(labels, order)


@pytest.mark.parametrize(("labels", "order", "problem"), REFUSED, ids=json.dumps)
def test_labels_that_nnunet_refuses(labels, order, problem):
    (found,) = problems_of_labels(labels, order)
    assert problem in found
    assert not nnunet_accepts(labels, order)


@pytest.mark.parametrize(("labels", "order", "problem"), MISTAKEN, ids=json.dumps)
def test_labels_that_nnunet_understands_in_another_way(labels, order, problem):
    assert problems_of_labels(labels, order) == [problem]
    assert nnunet_accepts(labels, order)
