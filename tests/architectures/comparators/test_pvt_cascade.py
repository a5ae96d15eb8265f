import pytest
from comparator_checks import ComparatorChecks, FormChecks

from nnunetv2_xattnres.architectures.comparators import PVTCascade

SMALL = {"encoder": "pvt_v2_b0"}


class TestPVTCascade(ComparatorChecks):
    network = PVTCascade
    parameters = 34_120_783
    small = SMALL
    outputs = 4
    sums_outputs = True


class TestConcatenating(FormChecks):
    network = PVTCascade
    parameters = 35_272_783
    counted = {"fusion": "concatenate"}  # noqa: RUF012
    small = {**SMALL, "fusion": "concatenate"}  # noqa: RUF012
    outputs = 4


def test_an_unknown_fusion():
    with pytest.raises(ValueError, match="add, concatenate"):
        PVTCascade(3, 1, fusion="mean", **SMALL)
