import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from nnunetv2_xattnres.architectures import EMCADNet
from nnunetv2_xattnres.architectures.pvt_weights import load_encoder_weights
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


@pytest.mark.parametrize("form", ["timm", "safetensors", "release", "wrapped"])
def test_loads_into_every_encoder_parameter(tmp_path, source, form):
    state = source.state_dict()
    file = tmp_path / ("model.safetensors" if form == "safetensors" else "pvt_v2_b0.pth")
    if form == "safetensors":
        save_file(state, file)
    else:
        state = in_release_names(state) if form == "release" else state
        torch.save({"state_dict": state} if form == "wrapped" else state, file)
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
            made.load_state_dict(
                {key.replace("stages.", "stages_", 1): v for key, v in source.state_dict().items() if "head" not in key}
            )
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
