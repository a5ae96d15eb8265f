"""``pyproject.toml`` promises what CI has seen: in the oldest environment, each lower bound is what is installed."""

import os
import re
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

OURS = "nnunetv2-xattnres"
DEMANDS = [Requirement(text) for text in metadata.requires(OURS) or []]
in_the_oldest = pytest.mark.skipif("XATTNRES_OLDEST" not in os.environ, reason="not in the oldest environment")


def lower_bound(demand: Requirement) -> Version:
    (bound,) = [Version(part.version) for part in demand.specifier if part.operator == ">="]
    return bound


def test_every_dependency_has_a_lower_bound():
    assert len(DEMANDS) > 20
    without = [str(demand) for demand in DEMANDS if not any(part.operator == ">=" for part in demand.specifier)]
    assert without == []


@in_the_oldest
@pytest.mark.parametrize("demand", DEMANDS, ids=str)
def test_the_lower_bound_is_what_is_installed(demand):
    # torch's version names its CUDA after a plus sign
    assert Version(metadata.version(demand.name).split("+")[0]) == lower_bound(demand)


@in_the_oldest
def test_the_oldest_python_is_this_one():
    (oldest,) = re.findall(r"^>=(\d+\.\d+)$", metadata.metadata(OURS)["Requires-Python"])
    assert "{}.{}".format(*sys.version_info) == oldest


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="another Python than CI's may be used as well")
def test_a_classifier_names_this_python_and_system():
    classifiers = metadata.metadata(OURS).get_all("Classifier")
    assert "Programming Language :: Python :: {}.{}".format(*sys.version_info) in classifiers
    assert sys.platform == "linux"
    assert [name for name in classifiers if name.startswith("Operating System")] == [
        "Operating System :: POSIX :: Linux"
    ]
