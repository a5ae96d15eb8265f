import pytest
import timm
import torch
from shallow_encoders import SHALLOW, shallow_vit
from torch import nn

from nnunetv2_xattnres.architectures.dry_run import dry_run
from nnunetv2_xattnres.architectures.pretrained import build_encoder
from nnunetv2_xattnres.architectures.vit_hybrid import HybridViT
from nnunetv2_xattnres.encoders import OPTIONS, R50_VIT


@pytest.fixture(scope="module")
def timms():
    """timm's own network, whose final form the encoder takes the layers of."""
    torch.manual_seed(0)
    options = {**OPTIONS[R50_VIT], **SHALLOW, "img_size": (64, 96), "dynamic_img_size": True}
    network = timm.create_model(R50_VIT, pretrained=False, **options).eval()
    nn.init.normal_(network.pos_embed)
    return network


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (32, 144), (16, 32)])
def test_features_are_timms_at_any_size(timms, size):
    x = torch.rand(2, 3, *size)
    inner = []
    backbone = timms.patch_embed.backbone
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: inner.append(output.clone()))
        for module in (backbone.stem.norm, backbone.stages[0], backbone.stages[1])
    ]
    with torch.no_grad():
        tokens = timms.forward_features(x)
        for hook in hooks:
            hook.remove()
        features = HybridViT(timms)(x)
    height, width = size
    assert [tuple(feature.shape) for feature in features] == [
        (2, 64, height // 2, width // 2),
        (2, 256, height // 4, width // 4),
        (2, 512, height // 8, width // 8),
        (2, 48, height // 16, width // 16),
    ]
    for ours, expected in zip(features[:3], inner, strict=True):
        torch.testing.assert_close(ours, expected)
    for row in range(height // 16):
        for column in range(width // 16):
            torch.testing.assert_close(features[3][:, :, row, column], tokens[:, row * (width // 16) + column])


def test_widths_are_those_of_the_features():
    with torch.device("meta"):
        encoder = build_encoder(R50_VIT)
    assert encoder.widths == tuple(feature.shape[1] for feature in dry_run(encoder, (1, 3, 32, 48)))


def test_names_are_timms():
    with torch.device("meta"):
        encoder, whole = build_encoder(R50_VIT), timm.create_model(R50_VIT, pretrained=False)
    theirs, ours = ({key: value.shape for key, value in each.state_dict().items()} for each in (whole, encoder))
    assert theirs.pop("cls_token") == (1, 1, 768) and theirs.pop("pos_embed") == (1, 197, 768)
    assert ours.pop("pos_embed") == (1, 196, 768)
    assert ours == theirs


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (112, 448), (64, 96)])
def test_pretrained_positions_are_laid_out_for_the_grid(size):
    # 112x448 has as many tokens as 224x224, in another order
    with shallow_vit():
        encoder = build_encoder(R50_VIT, img_size=size)
    rows = torch.linspace(0, 1, 14).view(14, 1).expand(14, 14)
    positions = torch.stack((rows, rows.T), 2).reshape(1, 196, 2)
    fitted = encoder.fit_positions(torch.cat((torch.full((1, 1, 2), 9.0), positions), 1))
    height, width = size[0] // 16, size[1] // 16
    assert fitted.shape == (1, height * width, 2) and fitted.max() < 2
    grid = fitted.view(height, width, 2)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all() and (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    if size == (224, 224):
        assert torch.equal(fitted, positions)


@pytest.mark.parametrize("shape", [(1, 196, 4), (1, 1, 4), (1, 0, 4), (5,)])
def test_positions_of_another_form_stay(shape):
    with shallow_vit():
        encoder = build_encoder(R50_VIT)
    positions = torch.rand(shape)
    assert encoder.fit_positions(positions) is positions


def test_dropout_is_that_of_transunet():
    with shallow_vit():
        encoder = build_encoder(R50_VIT)
    drops = [module.p for module in encoder.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    # after the position embeddings; in each layer after the attention and twice in the MLP
    assert drops == [0.1] * (1 + 3 * SHALLOW["depth"])
