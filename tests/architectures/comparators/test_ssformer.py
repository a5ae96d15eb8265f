import pytest
import torch
from comparator_checks import ComparatorChecks, FormChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures import XAttnRes
from nnunetv2_xattnres.architectures.comparators import SSFormer
from nnunetv2_xattnres.catalogue import NETWORKS, VARIANTS

REPLACE = VARIANTS["replace"].routing
SMALL = {"encoder": "pvt_v2_b0"}


class TestSSFormer(ComparatorChecks):
    network = SSFormer
    parameters = 29_963_457
    small = SMALL


class TestReplace(FormChecks):
    network = SSFormer
    # without the three fusions (512 x 256 and a batch normalisation each), with three queries and norms
    parameters = 29_963_457 - 3 * (512 * 256 + 512) + 3 * 512
    counted = {"routing": REPLACE}  # noqa: RUF012
    small = {**SMALL, "routing": REPLACE}  # noqa: RUF012


def emphasised(decoder, features):
    size = features[0].shape[2:]
    return [
        F.interpolate(module(feature), size, mode="bilinear", align_corners=False)
        for module, feature in zip(decoder.emphasis, features, strict=True)
    ]


@pytest.fixture
def features():
    torch.manual_seed(0)
    return [torch.rand(1, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate((32, 64, 160, 256))]


def test_deep_features_guide_shallow_ones_step_by_step(features):
    decoder = SSFormer(3, 2, **SMALL).eval().decoder
    one, two, three, four = emphasised(decoder, features)
    x = decoder.fusions[0](torch.cat([four, three], 1))
    x = decoder.fusions[1](torch.cat([x, two], 1))
    x = decoder.fusions[2](torch.cat([x, one], 1))
    torch.testing.assert_close(decoder(features), decoder.seg_layers[0](x))


def test_replace_begins_with_means_of_all_that_came_before(features):
    decoder = SSFormer(3, 2, routing=REPLACE, **SMALL).eval().decoder
    one, two, three, four = emphasised(decoder, features)
    first = (four + three) / 2
    second = (four + three + first + two) / 4
    third = (four + three + first + two + second + one) / 6
    torch.testing.assert_close(decoder(features), decoder.seg_layers[0](third), rtol=1e-4, atol=1e-5)


def test_routing():
    assert NETWORKS["ssformer"].variants == ["baseline", "replace"]
    baseline = SSFormer(3, 1, routing=VARIANTS["baseline"].routing, **SMALL)
    assert not any(isinstance(module, XAttnRes) for module in baseline.modules())
    readers = [m for m in SSFormer(3, 1, routing=REPLACE, **SMALL).modules() if isinstance(m, XAttnRes)]
    assert [sum(1 for _ in reader.parameters()) for reader in readers] == [2, 2, 2]  # a query and a norm: no projection
    with pytest.raises(ValueError, match="skip_connections true, decoder false"):
        SSFormer(3, 1, routing=VARIANTS["both"].routing, **SMALL)
