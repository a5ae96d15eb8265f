import pytest
import torch
import torch.nn.functional as F
from comparator_checks import ComparatorChecks
from shallow_encoders import shallow_vit
from torch import nn

from nnunetv2_xattnres.architectures.comparators import TransUNet
from nnunetv2_xattnres.architectures.comparators.transunet import TransUNetDecoder


class TestTransUNet(ComparatorChecks):
    network = TransUNet
    parameters = 105_322_001
    shallow = staticmethod(shallow_vit)
    outputs = 1


def test_decoder_written_out():
    torch.manual_seed(0)
    decoder = TransUNetDecoder((5, 6, 7, 8), 3, False).eval()
    for module in decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    features = [torch.rand(2, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate((5, 6, 7, 8))]

    def layer(module, x):
        convolution, norm, _ = module
        assert convolution.bias is None
        return F.relu(norm(F.conv2d(x, convolution.weight, padding=1)))

    x = layer(decoder.project, features[3])
    assert x.shape[1] == 512
    skips = [features[2], features[1], features[0], None]
    for stage, skip, width in zip(decoder.stages, skips, (256, 128, 64, 16), strict=True):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = x if skip is None else torch.cat([x, skip], 1)
        x = layer(stage[1], layer(stage[0], x))
        assert x.shape[1] == width
    head = decoder.seg_layers[0]
    expected = F.conv2d(x, head.weight, head.bias, padding=1)
    assert expected.shape == (2, 3, 32, 48)
    torch.testing.assert_close(decoder(features), expected)


@pytest.mark.parametrize(("image_size", "grid"), [((256, 256), (16, 16)), ([97, 131], (7, 9)), ((16, 352), (1, 22))])
def test_position_grid_of_the_padded_image(image_size, grid):
    with torch.device("meta"):
        network = TransUNet(3, 1, image_size=image_size)
    assert network.encoder.grid == grid and network.encoder.pos_embed.shape == (1, grid[0] * grid[1], 768)


@pytest.mark.parametrize("image_size", [(224,), (0, 224), (224, 224, 3)])
def test_unusable_image_size(image_size):
    with pytest.raises(ValueError, match=r"image_size is .*: give a height and a width"):
        TransUNet(3, 1, image_size=image_size)


def test_own_mean_and_deviation():
    with shallow_vit():
        network = TransUNet(3, 1, input_normalization="imagenet")
    assert network.mean.flatten().tolist() == network.std.flatten().tolist() == [0.5] * 3


def test_other_encoders_are_refused():
    with pytest.raises(ValueError, match="the valid names are vit_base_r50_s16_224"):
        TransUNet(3, 1, encoder="resnet50")
