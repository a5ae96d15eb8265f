import argparse
import re
import threading

import pytest
import timm
import torch
from safetensors.torch import save_file

from nnunetv2_xattnres.architectures import EMCADNet, encoder_weights
from nnunetv2_xattnres.architectures.encoder_weights import load_encoder_weights
from nnunetv2_xattnres.errors import InputError


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(5)
    network = timm.create_model("pvt_v2_b0", pretrained=False).eval()
    for parameter in network.parameters():  # so that biases and norms differ from a fresh network's as well
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def in_release_names(state):
    """The names of the original PVT release, from timm's."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("patch_embed.", "patch_embed1.")
        key = re.sub(r"^stages\.(\d)\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}.", key)
        key = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.", key)
        key = re.sub(r"^stages\.(\d)\.norm\.", lambda m: f"norm{int(m[1]) + 1}.", key)
        renamed[key.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")] = value
    return renamed


def network(weights, encoder="pvt_v2_b0"):
    torch.manual_seed(0)
    return EMCADNet(3, 1, encoder=encoder, encoder_weights=str(weights)).eval()


@pytest.mark.parametrize("form", ["timm", "safetensors", "release", "wrapped", "ema", "model_ema", "ddp"])
def test_loads_into_every_encoder_parameter(tmp_path, source, form):
    state = source.state_dict()
    file = tmp_path / ("model.safetensors" if form == "safetensors" else "pvt_v2_b0.pth")
    if form == "safetensors":
        save_file(state, file)
    else:
        state = in_release_names(state) if form == "release" else state
        wrong = {key: torch.zeros_like(value) for key, value in state.items()}
        forms = {
            "wrapped": {"state_dict": state},
            "ema": {"state_dict": wrong, "state_dict_ema": state, "epoch": 3},
            "model_ema": {"model_ema": state},
            "ddp": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        }
        torch.save(forms.get(form, state), file)
    if form == "release":
        assert "block1.0.mlp.dwconv.dwconv.weight" in state and "patch_embed4.norm.bias" in state
    ours = network(file)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    load_encoder_weights(ours)
    x = torch.rand(2, 3, 64, 96)
    for feature, expected in zip(ours.encoder(x), source.forward_intermediates(x)[1], strict=True):
        assert torch.equal(feature, expected)
    after = ours.state_dict()
    loaded = {name for name in after if not torch.equal(after[name], before[name])}
    assert loaded == {name for name in after if name.startswith("encoder.")}


def test_hub_weights_arrive(monkeypatch, source):
    create = timm.create_model

    def with_weights(name, pretrained=False, **kwargs):
        made = create(name, pretrained=False, **kwargs)
        if pretrained:
            made.load_state_dict(source.state_dict())
        return made

    monkeypatch.setattr(timm, "create_model", with_weights)
    ours = network("imagenet")
    load_encoder_weights(ours)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(ours.encoder(x)[-1], source.forward_intermediates(x)[1][-1])


def test_no_hub(monkeypatch):
    create = timm.create_model

    def refuse(name, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("connection refused")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(InputError, match=r"connection refused.*pvt_v2_b0\.pth.*encoder_weights"):
        load_encoder_weights(network("imagenet"))


def unchanged(ours, call):
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(InputError) as caught:
        call(ours)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    return str(caught.value)


def test_missing_file(tmp_path):
    message = unchanged(network(tmp_path / "pvt.pth"), load_encoder_weights)
    assert "pvt.pth" in message and "is not there" in message and "timm/pvt_v2_b0.in1k" in message


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_truncated_file(tmp_path, source, keep, ending):
    file = tmp_path / f"pvt.{ending}"
    (save_file if ending == "safetensors" else torch.save)(source.state_dict(), file)
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    message = unchanged(network(file), load_encoder_weights)
    assert str(file) in message and "damaged" in message


def test_file_that_holds_something_else(tmp_path):
    file = tmp_path / "notes.pth"
    file.write_text("not weights")
    assert "damaged or no file of weights" in unchanged(network(file), load_encoder_weights)
    torch.save([1, 2], file)
    assert "damaged or no file of weights" in unchanged(network(file), load_encoder_weights)


def test_file_of_another_encoder(tmp_path, source):
    file = tmp_path / "pvt_v2_b0.pth"
    torch.save(source.state_dict(), file)
    message = unchanged(network(file, "pvt_v2_b1"), load_encoder_weights)
    assert "does not hold the weights of pvt_v2_b1" in message
    assert "patch_embed.proj.weight is (32, 3, 7, 7), expected (64, 3, 7, 7)" in message


def test_incomplete_file(tmp_path, source):
    file = tmp_path / "pvt_v2_b0.pth"
    state = dict(source.state_dict())
    del state["stages.2.norm.weight"]
    torch.save({**state, "extra": torch.zeros(1)}, file)
    message = unchanged(network(file), load_encoder_weights)
    assert "stages_2.norm.weight is missing" in message and "extra is not part of pvt_v2_b0" in message


def test_nothing_asked_for():
    ours = EMCADNet(3, 1, encoder="pvt_v2_b0")
    before = ours.encoder.patch_embed.proj.weight.clone()
    load_encoder_weights(ours)
    assert torch.equal(ours.encoder.patch_embed.proj.weight, before)


def test_a_silent_hub_is_given_up(monkeypatch):
    create, released = timm.create_model, threading.Event()

    def wait(name, pretrained=False, **kwargs):
        if pretrained:
            released.wait(60)
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", wait)
    monkeypatch.setattr(encoder_weights, "HUB_SILENCE", 0.2, raising=False)
    ours = network("imagenet")
    try:
        assert "no answer from the hub within 0.2 seconds" in unchanged(ours, load_encoder_weights)
    finally:
        released.set()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, source, value):
    file = tmp_path / "pvt_v2_b0.pth"
    state = {key: tensor.clone() for key, tensor in source.state_dict().items()}
    state["stages.2.norm.weight"][3] = value
    torch.save(state, file)
    message = unchanged(network(file), load_encoder_weights)
    assert "not finite" in message and "stages_2.norm.weight" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b"", "the file is empty"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{}}', "a safetensors file"),
    ],
)
def test_what_a_download_left_instead(tmp_path, content, said):
    file = tmp_path / "pvt_v2_b0.pth"
    file.write_bytes(content)
    assert said in unchanged(network(file), load_encoder_weights)


@pytest.mark.parametrize("prefix", ["backbone.", "model.encoder."])
def test_the_prefix_of_another_networks_weights_is_named(tmp_path, source, prefix):
    file = tmp_path / "segmentation.pth"
    state = timm.create_model("pvt_v2_b0", features_only=True).state_dict()
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, file)
    assert f"begins with {prefix!r}" in unchanged(network(file), load_encoder_weights)


def test_objects_beside_the_weights_are_not_loaded(tmp_path, source):
    file = tmp_path / "pvt_v2_b0.pth"
    torch.save({"state_dict": source.state_dict(), "args": argparse.Namespace(lr=1)}, file)
    assert "Python objects beside the weights" in unchanged(network(file), load_encoder_weights)


def test_a_file_of_another_encoder_says_which(tmp_path, source):
    file = tmp_path / "weights.pth"
    torch.save(source.state_dict(), file)
    assert "it holds those of pvt_v2_b0 (`nnunetv2_xattnres plan --encoder pvt_v2_b0`)" in unchanged(
        network(file, "pvt_v2_b2"), load_encoder_weights
    )
