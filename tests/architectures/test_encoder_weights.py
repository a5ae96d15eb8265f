"""Weights for the encoders other than PVTv2: test_emcad_weights.py has what does not depend on the encoder."""

import numpy as np
import pytest
import timm
import torch
from shallow_encoders import SHALLOW, shallow_vit
from torch import nn

from nnunetv2_xattnres.architectures import encoder_weights
from nnunetv2_xattnres.architectures.encoder_weights import check_encoder_weights, load_encoder_weights
from nnunetv2_xattnres.architectures.pretrained import PretrainedEncoderNetwork
from nnunetv2_xattnres.encoders import OPTIONS, PVT, R50_VIT, RES2NET_50, RESNET, SWIN
from nnunetv2_xattnres.errors import InputError

GRID = (64, 96)  # pixels of an image for which the position embeddings are laid out
WIDTH = SHALLOW["embed_dim"]
HEADS = SHALLOW["num_heads"], WIDTH // SHALLOW["num_heads"]
TESTED = (RES2NET_50, RESNET, SWIN, R50_VIT)


class Encoder(PretrainedEncoderNetwork):
    """A network of nothing but an encoder and a stem of one channel."""

    def __init__(self, name, weights):
        options = {"img_size": GRID} if name == R50_VIT else {}
        super().__init__(
            32, 1, encoder=name, encoders=tuple(OPTIONS), encoder_weights=str(weights), input_normalization=None,
            input_size=None, **options,
        )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small():
    """Transformers on a ResNet are small here, in every place where timm is asked for one."""
    caches = encoder_weights._whole, encoder_weights._without_content
    for each in caches:
        each.cache_clear()
    with shallow_vit():
        yield
    for each in caches:
        each.cache_clear()


@pytest.fixture(scope="module")
def whole():
    """timm's whole networks, classifiers included, with weights and statistics unlike those of a fresh one."""

    def make(name):
        if name not in made:
            torch.manual_seed(5)
            # published on ImageNet-21k
            options = {"num_classes": 21843} if name == R50_VIT else {}
            made[name] = timm.create_model(name, pretrained=False, **options).eval()
            for key, value in made[name].state_dict().items():
                if value.is_floating_point():
                    value.add_(torch.rand_like(value), alpha=0.02)
                assert key.endswith("num_batches_tracked") or value.std() > 0 or value.numel() == 1, key
        return made[name]

    made = {}
    return make


def features_of(network, name, x):
    """The feature maps that an encoder has to return, from the whole network."""
    if name == SWIN:  # two of the six blocks of the third stage
        any_size = timm.create_model(name, pretrained=False, strict_img_size=False).eval()
        any_size.load_state_dict(network.state_dict())
        any_size.layers[2].blocks = any_size.layers[2].blocks[:2]
        features, x = [], any_size.patch_embed(x)
        for stage in any_size.layers:
            x = stage(x)
            features.append(x)
        return features
    if name == R50_VIT:  # without its class token
        backbone = network.patch_embed.backbone
        half = backbone.stem.norm(backbone.stem.conv(x))
        features = [half]
        x = backbone.stem.pool(half)
        for stage in backbone.stages:
            x = stage(x)
            features.append(x)
        tokens = network.patch_embed.proj(features.pop()).flatten(2).mT
        positions = timm.layers.resample_abs_pos_embed(network.pos_embed, [4, 6], num_prefix_tokens=1)
        tokens = network.norm(network.blocks(tokens + positions[:, 1:]))
        return [*features, tokens.mT.unflatten(2, (4, 6))]
    x = network.act1(network.bn1(network.conv1(x)))
    features, x = [], network.maxpool(x)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        features.append(x)
    return features


def in_old_form(state, name):
    """What older files of the same network have in other names, beside, or not at all."""
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if name == SWIN:  # the downsampling was the end of a stage, and constant tensors were stored
        state = {
            key.replace(f"layers.{i}.downsample", f"layers.{i - 1}.downsample").replace("head.fc.", "head."): value
            for i in (1, 2, 3)
            for key, value in state.items()
            if f"layers.{i}.downsample" in key or ("downsample" not in key and i == 1)
        }
        state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
        return {"model": state}
    if name == R50_VIT:
        return {**state, "pre_logits.fc.weight": torch.rand(WIDTH, WIDTH), "pre_logits.fc.bias": torch.rand(WIDTH)}
    return state


@pytest.mark.parametrize("form", ["timm", "old"])
@pytest.mark.parametrize("name", TESTED)
def test_loads_into_every_encoder_parameter(tmp_path, whole, name, form):
    network = whole(name)
    file = tmp_path / "weights.pth"
    torch.save(network.state_dict() if form == "timm" else in_old_form(network.state_dict(), name), file)
    torch.manual_seed(0)
    ours = Encoder(name, file).eval()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    load_encoder_weights(ours)
    loaded = {key for key, value in ours.state_dict().items() if not torch.equal(value, before[key])}
    assert loaded == {key for key in before if key.startswith("encoder.") and "num_batches_tracked" not in key}
    if form == "old":
        return
    x = torch.rand(1, 3, *GRID)
    with torch.no_grad():
        expected = features_of(network, name, x)
        features = ours.encoder(x)
    if name == RESNET:  # at stride 16, by a dilated last stage: the second map that an encoder returns is another
        assert len(features) == 2 and features[1].shape == (1, 2048, 4, 6)
        features, expected = features[:1], expected[:1]
    assert len(features) == len(expected)
    for feature, reference in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, reference)


def test_the_dilated_stage_has_the_same_weights(tmp_path, whole):
    network = timm.create_model(RESNET, pretrained=False, output_stride=16).eval()
    network.load_state_dict(whole(RESNET).state_dict())
    file = tmp_path / "weights.pth"
    torch.save(whole(RESNET).state_dict(), file)
    ours = Encoder(RESNET, file).eval()
    load_encoder_weights(ours)
    x = torch.rand(1, 3, *GRID)
    with torch.no_grad():
        torch.testing.assert_close(ours.encoder(x)[1], features_of(network, RESNET, x)[3])


@pytest.mark.parametrize("name", TESTED)
def test_every_differing_key_is_named(monkeypatch, tmp_path, whole, name):
    monkeypatch.setattr(encoder_weights, "SHOWN", 1000)
    state = dict(whole(name).state_dict())
    keys = [key for key in encoder_weights._without_content(name).state_dict() if "num_batches" not in key]
    gone, wrong = keys[3].replace("layers_", "layers."), keys[-1].replace("layers_", "layers.")
    del state[gone]
    state[wrong] = torch.zeros(3)
    file = tmp_path / "weights.pth"
    torch.save({**state, "decoder.weight": torch.zeros(2)}, file)
    shape = tuple(whole(name).state_dict()[wrong].shape)
    with pytest.raises(InputError) as caught:
        check_encoder_weights(name, str(file))
    assert sorted(caught.value.problems) == sorted([
        f"{keys[3]} is missing", f"{keys[-1]} is (3,), expected {shape}", f"decoder.weight is not part of {name}"
    ])  # fmt: skip


@pytest.mark.parametrize(("name", "other"), [(SWIN, R50_VIT), (R50_VIT, SWIN), (PVT[0], RES2NET_50), (RESNET, SWIN)])
def test_a_file_of_another_encoder_says_which(tmp_path, whole, name, other):
    file = tmp_path / "weights.pth"
    torch.save(whole(other).state_dict(), file)
    with pytest.raises(InputError, match=f"does not hold the weights of {name}: it holds those of {other} "):
        check_encoder_weights(name, str(file))


def test_swin_without_a_head(tmp_path, whole):
    # timm takes such a file for one of its old form, in which the same layers have other names
    file = tmp_path / "weights.pth"
    torch.save({key: value for key, value in whole(SWIN).state_dict().items() if "head" not in key}, file)
    check_encoder_weights(SWIN, str(file))


@pytest.mark.parametrize("tokens", [1 + 24 * 24, 197, 17])
def test_positions_of_other_sizes(tmp_path, whole, tokens):
    state = {**whole(R50_VIT).state_dict(), "pos_embed": torch.rand(1, tokens, WIDTH)}
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    ours = Encoder(R50_VIT, file)
    load_encoder_weights(ours)
    grid = timm.layers.resample_abs_pos_embed(state["pos_embed"], [4, 6], num_prefix_tokens=1)
    torch.testing.assert_close(ours.encoder.pos_embed.detach(), grid[:, 1:])


def test_positions_of_no_grid(tmp_path, whole):
    file = tmp_path / "weights.pth"
    torch.save({**whole(R50_VIT).state_dict(), "pos_embed": torch.rand(1, 200, WIDTH)}, file)
    with pytest.raises(InputError) as caught:
        load_encoder_weights(Encoder(R50_VIT, file))
    assert caught.value.problems == [f"pos_embed is (1, 200, {WIDTH}), expected (1, 24, {WIDTH})"]


def test_from_the_hub(monkeypatch, whole):
    create = timm.create_model

    def with_weights(name, pretrained=False, **kwargs):
        made = create(name, pretrained=False, **kwargs)
        if pretrained:
            made.load_state_dict(whole(R50_VIT).state_dict(), strict=False)
        return made

    monkeypatch.setattr(timm, "create_model", with_weights)
    ours = Encoder(R50_VIT, "imagenet").eval()
    load_encoder_weights(ours)
    x = torch.rand(1, 3, *GRID)
    with torch.no_grad():
        for feature, expected in zip(ours.encoder(x), features_of(whole(R50_VIT), R50_VIT, x), strict=True):
            torch.testing.assert_close(feature, expected)


def in_googles_names(network):
    """The arrays of ``R50+ViT-B_16.npz``."""
    found = {}

    def store(name, value, axes=None):
        found[name] = (value.permute(axes) if axes else value).detach().numpy()

    def store_norm(name, norm):
        # the release keeps these of the convolutions with axes for batch, height and width
        shape = (1, 1, 1, -1) if isinstance(norm, nn.GroupNorm) else (-1,)
        store(f"{name}/scale", norm.weight.view(shape))
        store(f"{name}/bias", norm.bias.view(shape))

    def store_convolution(name, convolution):
        store(f"{name}/kernel", convolution.weight, (2, 3, 1, 0))

    backbone = network.patch_embed.backbone
    store_convolution("conv_root", backbone.stem.conv)
    store_norm("gn_root", backbone.stem.norm)
    for i, stage in enumerate(backbone.stages, 1):
        for j, unit in enumerate(stage.blocks, 1):
            for k in (1, 2, 3):
                store_convolution(f"block{i}/unit{j}/conv{k}", getattr(unit, f"conv{k}"))
                store_norm(f"block{i}/unit{j}/gn{k}", getattr(unit, f"norm{k}"))
            if unit.downsample is not None:
                store_convolution(f"block{i}/unit{j}/conv_proj", unit.downsample.conv)
                store_norm(f"block{i}/unit{j}/gn_proj", unit.downsample.norm)
    store_convolution("embedding", network.patch_embed.proj)
    store("embedding/bias", network.patch_embed.proj.bias)
    store("cls", network.cls_token)
    store("Transformer/posembed_input/pos_embedding", network.pos_embed)
    store_norm("Transformer/encoder_norm", network.norm)
    for i, block in enumerate(network.blocks):
        name = f"Transformer/encoderblock_{i}"
        store_norm(f"{name}/LayerNorm_0", block.norm1)
        store_norm(f"{name}/LayerNorm_2", block.norm2)
        attention = f"{name}/MultiHeadDotProductAttention_1"
        parts = zip(block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True)
        for part, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
            store(f"{attention}/{part}/kernel", weight.T.unflatten(1, HEADS))
            store(f"{attention}/{part}/bias", bias.unflatten(0, HEADS))
        store(f"{attention}/out/kernel", block.attn.proj.weight.T.unflatten(0, HEADS))
        store(f"{attention}/out/bias", block.attn.proj.bias)
        for k, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
            store(f"{name}/MlpBlock_3/Dense_{k}/kernel", layer.weight.T)
            store(f"{name}/MlpBlock_3/Dense_{k}/bias", layer.bias)
    return found


def test_googles_release(tmp_path, whole):
    network = whole(R50_VIT)
    arrays = in_googles_names(network)
    file = tmp_path / "R50+ViT-B_16.npz"
    np.savez(file, **arrays)
    ours = Encoder(R50_VIT, file)
    load_encoder_weights(ours)
    state = network.state_dict()
    for key, value in ours.encoder.state_dict().items():
        if key != "pos_embed":
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    del arrays["Transformer/encoderblock_1/LayerNorm_2/bias"]
    np.savez(file, **arrays)
    with pytest.raises(InputError, match=r"cannot be read as weights of vit_base.*encoderblock_1/LayerNorm_2/bias"):
        load_encoder_weights(ours)
    with pytest.raises(InputError, match="holds no weights of resnet50: it is a NumPy archive"):
        check_encoder_weights(RESNET, str(file))
