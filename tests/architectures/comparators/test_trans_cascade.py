import torch
import torch.nn.functional as F
from comparator_checks import ComparatorChecks
from shallow_encoders import shallow_vit

from nnunetv2_xattnres.architectures.comparators import TransCascade


class TestTransCascade(ComparatorChecks):
    network = TransCascade
    parameters = 123_520_975
    shallow = staticmethod(shallow_vit)
    outputs = 4
    sums_outputs = True

    def test_outputs_are_enlarged_with_aligned_corners(self):
        network = self.build(deep_supervision=True).eval()
        x = torch.rand(1, 3, 48, 64)
        with torch.no_grad():
            inner = network.decoder(network.encoder(x))
            assert [tuple(each.shape[2:]) for each in inner] == [(24, 32), (12, 16), (6, 8), (3, 4)]
            for ours, logits in zip(network(x), inner, strict=True):
                expected = F.interpolate(logits, (48, 64), mode="bilinear", align_corners=True)
                torch.testing.assert_close(ours, expected)


def test_parameters_at_224_and_nine_classes():
    with torch.device("meta"):
        network = TransCascade(3, 9, image_size=(224, 224))
    assert sum(parameter.numel() for parameter in network.parameters()) == 123_487_727
