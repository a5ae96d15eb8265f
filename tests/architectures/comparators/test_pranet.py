import torch
from comparator_checks import ComparatorChecks
from shallow_encoders import shallow_res2net
from torch.nn import functional as F

from nnunetv2_xattnres.architectures.comparators import PraNet
from nnunetv2_xattnres.architectures.comparators.pranet import PraNetDecoder


class TestPraNet(ComparatorChecks):
    network = PraNet
    parameters = 30_498_319
    shallow = staticmethod(shallow_res2net)
    outputs = 4


def test_each_map_refines_the_one_below_it():
    torch.manual_seed(0)
    decoder = PraNetDecoder([6, 10, 14], 1, regions=False).eval()
    features = [torch.rand(1, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate((6, 10, 14))]

    fields = [block(feature) for block, feature in zip(decoder.fields, features, strict=True)]
    coarse = decoder.seg_layers[0](decoder.smooth(decoder.partial(fields[2], fields[1], fields[0])))
    assert coarse.shape == (1, 1, 16, 24)
    expected, logits = [coarse], coarse
    for level in (2, 1, 0):
        logits = F.interpolate(logits, features[level].shape[2:], mode="bilinear")
        refine = decoder.refinements[level]
        seen = features[level] * (1 - torch.sigmoid(logits))
        logits = refine.seg_layers(refine.look(seen)) + logits
        expected.insert(0, logits)
    torch.testing.assert_close(decoder(features), expected)


def test_the_convolutions_of_each_level():
    kernels = [
        [m.kernel_size[0] for m in refine.modules() if isinstance(m, torch.nn.Conv2d)]
        for refine in PraNetDecoder([6, 10, 14], 1, regions=False).refinements
    ]
    assert kernels == [[1, 3, 3, 3], [1, 3, 3, 3], [1, 5, 5, 5, 1]]


def test_regions_are_another_reading_of_the_same_logits():
    networks = [PraNetDecoder([6, 10, 14], 2, regions=regions).eval() for regions in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    features = [torch.rand(1, width, 16 // 2**i, 16 // 2**i) for i, width in enumerate((6, 10, 14))]
    classes, regions = (network(features) for network in networks)
    assert torch.equal(classes[-1], regions[-1]) and not torch.equal(classes[0], regions[0])
