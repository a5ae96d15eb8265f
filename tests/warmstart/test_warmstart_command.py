import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_xattnres.catalogue import TRAINER
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.weights_files import read_weights

for folder in ("plans", "trainers"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

import plans_phantom  # noqa: E402
from phantom_dataset import shrink, write_dataset  # noqa: E402

RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
STOCK_START = "nnUNetTrainer_XAttnRes_StockStart"


@pytest.fixture(params=["plain 2D", "plain 3D", "resenc 2D", "resenc 3D"])
def planned(request, tmp_path, monkeypatch):
    """Plans of nnU-Net: their folder, content and configuration."""
    return plan(tmp_path, monkeypatch, *request.param.split())


@pytest.fixture
def plain(tmp_path, monkeypatch):
    return plan(tmp_path, monkeypatch, "plain", "2D")


def plan(tmp_path, monkeypatch, kind, dims):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.delenv("XATTNRES_SEED", raising=False)
    folder = tmp_path / "preprocessed" / "Dataset011_Polyps"
    plans = plans_phantom.write(folder, dims=int(dims[0]))
    (configuration,) = plans["configurations"]
    if kind == "resenc":
        architecture = plans["configurations"][configuration]["architecture"]
        architecture["network_class_name"] = RESENC
        architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    return folder, plans, configuration


def build(plans, configuration, *, channels=3, classes=2, **changes):
    """The network of a configuration, as nnU-Net builds it, with weights of its own."""
    architecture = plans["configurations"][configuration]["architecture"]
    torch.manual_seed(5)
    return get_network_from_plans(
        changes.pop("name", architecture["network_class_name"]),
        {**architecture["arch_kwargs"], **changes},
        architecture["_kw_requires_import"],
        channels,
        classes,
        deep_supervision=True,
    )


def save(network, path, **more):
    """A checkpoint with what nnU-Net's have beside the weights."""
    logging = {"ema_fg_dice": [np.float32(0.5), np.float64(0.6)], "lrs": [0.01]}
    content = {
        "network_weights": network.state_dict(),
        "logging": logging,
        "_best_ema": np.float64(0.6),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"fold": 0, "device": torch.device("cpu")},
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save({**content, **more}, path)
    return path


def warmstart(source, configuration, output, *more):
    return main(["warmstart", str(source), "-d", "11", "-c", configuration, "-o", str(output), *more])


def ours(plans, configuration, **routing):
    name = plans["configurations"][configuration]["architecture"]["network_class_name"].rsplit(".", 1)[-1]
    path = {"PlainConvUNet": "XAttnResUNet", "ResidualEncoderUNet": "XAttnResResidualEncoderUNet"}[name]
    return build(plans, configuration, name=f"nnunetv2_xattnres.architectures.{path}", routing=routing)


def sample(network):
    torch.manual_seed(6)
    return torch.rand(1, 3, *(16,) * (2 if network.encoder.conv_op is torch.nn.Conv2d else 3))


def test_a_stock_checkpoint_starts_the_stock_network(planned, tmp_path, capsys):
    _, plans, configuration = planned
    stock = build(plans, configuration)
    source, output = save(stock, tmp_path / "stock.pth"), tmp_path / "my start.pth"
    assert warmstart(source, configuration, output, "-tr", STOCK_START, "--start", "stock") == 0
    printed = capsys.readouterr().out
    assert "Start: the outputs of the checkpoint are those of the source, if" in printed
    assert f"-tr {STOCK_START} -pretrained_weights '{output}'" in printed
    network = ours(plans, configuration, stock_start=True)
    network.load_state_dict(torch.load(output, weights_only=True)["network_weights"])
    x = sample(network)
    with torch.no_grad():
        for got, want in zip(network(x), stock(x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("routing", "trainer", "says"),
    [
        ({}, TRAINER, "the outputs of the checkpoint are those of the source"),
        ({}, STOCK_START, r"\d+ of XAttnRes are new, so the outputs are not those of the source"),
        ({"stock_start": True}, TRAINER, r"\d+ of the source are not needed, so the outputs are not those"),
    ],
)
def test_the_first_outputs_after_another_variant(planned, tmp_path, capsys, routing, trainer, says):
    _, plans, configuration = planned
    source = ours(plans, configuration, **routing)
    for name, tensor in source.state_dict().items():
        if name.endswith((".query", ".gate")):
            torch.nn.init.normal_(tensor)
    output = tmp_path / "start.pth"
    assert warmstart(save(source, tmp_path / "source.pth"), configuration, output, "-tr", trainer) == 0
    assert re.search(f"Start: {says}", capsys.readouterr().out)
    network = ours(plans, configuration, stock_start=trainer == STOCK_START)
    network.load_state_dict(torch.load(output, weights_only=True)["network_weights"])
    x = sample(network)
    with torch.no_grad():
        same = torch.allclose(network(x)[0], source(x)[0], atol=1e-5)
    assert same == (" not " not in says)


def test_nnunet_takes_what_is_written(planned, tmp_path, capsys):
    _, plans, configuration = planned
    stock = build(plans, configuration)
    output = tmp_path / "start.pth"
    assert warmstart(save(stock, tmp_path / "stock.pth"), configuration, output) == 0
    assert "Start: average." in capsys.readouterr().out
    network = ours(plans, configuration)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_pretrained_weights(network, output)
    after, theirs = network.state_dict(), stock.state_dict()
    for key, value in after.items():
        if ".seg_layers." in key:  # nnU-Net never takes these
            assert torch.equal(value, before[key])
        elif key in theirs:
            assert torch.equal(value, theirs[key])


def test_other_channels_and_classes_are_new(plain, tmp_path, capsys):
    _, plans, configuration = plain
    stock = build(plans, configuration, channels=1, classes=4)
    output = tmp_path / "start.pth"
    assert warmstart(save(stock, tmp_path / "stock.pth"), configuration, output) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    misfits = [" ".join(line[3:]) for line in lines if line[:3] == ["did", "not", "fit,"]]
    assert "new encoder.stages.0.0.convs.0.conv.weight 108 here 4×3×3×3, there 4×1×3×3" in misfits
    assert "new decoder.seg_layers.1.weight 8 here 2×4×1×1, there 4×4×1×1" in misfits
    assert len(misfits) == 5  # the stem's kernel, and weight and bias of two segmentation layers
    assert ["new", "encoder_xattnres.1", "48", "not", "in", "the", "source"] in lines  # 4×8, query and scale of 8
    load_pretrained_weights(ours(plans, configuration), output)


def test_another_variant_gives_what_fits(plain, tmp_path, capsys):
    _, plans, configuration = plain
    replace = ours(plans, configuration, skip_connections=False, encoder=True, decoder=True)
    torch.nn.init.normal_(replace.encoder_xattnres[2].query)
    output = tmp_path / "start.pth"
    assert warmstart(save(replace, tmp_path / "replace.pth"), configuration, output) == 0
    written = torch.load(output, weights_only=True)
    assert torch.equal(written["network_weights"]["encoder_xattnres.2.query"], replace.encoder_xattnres[2].query)
    # without skip connections, a decoder's first convolution has half the channels
    assert [name for name in written["xattnres_warmstart"]["did_not_fit"] if "stages" in name] == [
        f"decoder.stages.{stage}.convs.0.conv.weight" for stage in range(2)
    ]


def test_wrappers_and_bare_weights_are_read(plain, tmp_path):
    _, plans, configuration = plain
    stock = build(plans, configuration)
    torch.save({f"module._orig_mod.{key}": value for key, value in stock.state_dict().items()}, tmp_path / "bare.pth")
    assert warmstart(tmp_path / "bare.pth", configuration, tmp_path / "start.pth") == 0
    written = torch.load(tmp_path / "start.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(written[key], value) for key, value in stock.state_dict().items())


def test_a_seed_repeats_the_new_weights(plain, tmp_path, monkeypatch):
    _, plans, configuration = plain
    source = save(build(plans, configuration, classes=4), tmp_path / "stock.pth")
    made = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("XATTNRES_SEED", seed)
        assert warmstart(source, configuration, tmp_path / "start.pth", "--overwrite") == 0
        weights = torch.load(tmp_path / "start.pth", weights_only=True)["network_weights"]
        made.append(weights["decoder.seg_layers.0.weight"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


class Command:
    """What runs if a file is unpickled without care."""

    ran: ClassVar[list[str]] = []

    def __reduce__(self):
        return Command.ran.append, ("ran",)


def half_a_checkpoint():
    stream = io.BytesIO()
    torch.save({"network_weights": {"a": torch.zeros(1000)}}, stream)
    return stream.getvalue()[:2000]


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "source.pth does not exist"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><title>Sign in</title>", "it is a web page"),
        (half_a_checkpoint(), "is damaged, or no checkpoint"),
        (pickle.dumps({"a": 1}), "is damaged, or no checkpoint"),
        (saved({}), "holds no weights"),
        (saved({"epoch": 3}), "these are no tensors with names: epoch"),
        (saved({7: torch.zeros(2, 2)}), "these are no tensors with names: 7"),
        (saved([torch.zeros(2)]), "holds no weights"),
        (saved({"network_weights": {"a": torch.tensor([1.0, float("nan")])}}), "1 of its 1 weights are not finite"),
        (saved({"network_weights": {"a": torch.zeros(2, 2)}}), "Nothing of .* fits into the network of configuration"),
    ],
)
def test_a_source_that_cannot_be_used(plain, tmp_path, capsys, content, message):
    source, output = tmp_path / "source.pth", tmp_path / "start.pth"
    if content is not None:
        source.write_bytes(content)
    assert warmstart(source, "2d", output) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error), error
    assert not output.exists() and not list(tmp_path.glob(".*.pth"))


def test_code_in_a_source_does_not_run(plain, tmp_path, capsys):
    _, plans, configuration = plain
    source = save(build(plans, configuration), tmp_path / "source.pth", extra=Command())
    assert warmstart(source, configuration, tmp_path / "start.pth") == 2
    assert "is not opened, for safety" in capsys.readouterr().err
    assert Command.ran == []


def test_a_3d_checkpoint_does_not_fit_by_its_biases(plain, tmp_path, capsys):
    _, _, configuration = plain
    plans3 = plans_phantom.write(tmp_path / "other", dims=3)
    source = save(build(plans3, "3d_fullres"), tmp_path / "source.pth")
    assert warmstart(source, configuration, tmp_path / "start.pth") == 2
    error = capsys.readouterr().err
    assert "Nothing of" in error and "(4, 3, 3, 3, 3) there and (4, 3, 3, 3) here" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-c", "3d_lowres"), "no configuration 3d_lowres"),
        (("-p", "MyPlans"), "MyPlans.json does not exist"),
        (("-d", "12"), "no data set 12"),
        (("-tr", "nnUNetTrainer_Nowhere"), "no trainer nnUNetTrainer_Nowhere"),
        (("--start", "stock"), "starts with the average of its history.*StockStart"),
        (("-tr", "nnUNetTrainer_XAttnRes_Replace", "--start", "stock"), "cannot start as the stock network"),
        (("-tr", STOCK_START, "--start", "average"), "starts as the stock network"),
        (("-tr", "nnUNetTrainer", "--start", "stock"), "has no XAttnRes"),
        (("-o", "{tmp}/none/start.pth"), "its folder does not exist"),
        (("-o", "{tmp}/there.pth"), "exists already: --overwrite replaces it"),
        (("-o", "{tmp}/source.pth", "--overwrite"), "is a file that this command reads"),
    ],
)
def test_what_does_not_exist_or_would_be_lost(plain, tmp_path, capsys, more, message):
    _, plans, configuration = plain
    source = save(build(plans, configuration), tmp_path / "source.pth")
    before = source.read_bytes()
    (tmp_path / "there.pth").touch()
    assert warmstart(source, configuration, tmp_path / "start.pth", *(each.format(tmp=tmp_path) for each in more)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert source.read_bytes() == before and not (tmp_path / "start.pth").exists()


def test_a_full_disk_leaves_nothing(plain, tmp_path, monkeypatch, capsys):
    _, plans, configuration = plain
    source = save(build(plans, configuration), tmp_path / "source.pth")

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    assert warmstart(source, configuration, tmp_path / "start.pth") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*start*")] + list(tmp_path.glob(".*")) == []


def test_plans_of_the_study_start(plain, tmp_path, capsys):
    folder, plans, configuration = plain
    assert main(["plan", "11", "--study", "start"]) == 0
    written = json.loads((folder / "nnUNetXAttnResPlans.json").read_text())
    assert set(written["configurations"]) == {"2d", "2d_both", "2d_stock_start"}
    assert "stock_start" not in written["configurations"]["2d_both"]["architecture"]["arch_kwargs"]["routing"]
    source = save(build(plans, configuration), tmp_path / "source.pth")
    more = ("-p", "nnUNetXAttnResPlans", "--start", "stock")
    assert warmstart(source, "2d_stock_start", tmp_path / "start.pth", *more) == 0
    assert warmstart(source, "2d_both", tmp_path / "other.pth", *more) == 2
    assert "plan --study start" in capsys.readouterr().err


def test_a_checkpoint_of_a_training_is_opened():
    weights = read_weights(Path(__file__).parents[1] / "former" / "model" / "fold_0" / "checkpoint_final.pth")
    assert weights and all(isinstance(value, torch.Tensor) for value in weights.values())


@pytest.mark.slow
def test_nnunets_command_trains_from_it(module_nnunet, tmp_path):
    nnunet, plans_name, short = module_nnunet, "nnUNetXAttnResPlans", "nnUNetTrainer_XAttnRes_Unvalidated"
    nnunet.environment["nnUNet_extTrainer"] = str(Path(__file__).parents[1] / "short_trainers")
    raw = write_dataset(nnunet.raw, 717)
    nnunet.run("nnUNetv2_plan_and_preprocess", "-d", 717, "-c", "2d", "-npfp", 1, "-np", 1)
    shrink(nnunet.preprocessed / raw.name / "nnUNetPlans.json", "2d")
    nnunet.run_here("plan", 717, "--study", "start")
    plans = json.loads((nnunet.preprocessed / raw.name / f"{plans_name}.json").read_text())
    source, output = save(build(plans, "2d"), tmp_path / "stock.pth"), tmp_path / "start.pth"
    where = ("-p", plans_name, "-tr", short)
    command = ("nnunetv2_xattnres", "warmstart", source, "-d", 717, "-c", "2d_stock_start", *where, "-o", output)
    assert "did not fit, new" not in nnunet.run(*command).stdout
    train = ("nnUNetv2_train", 717, "2d_stock_start", 0, *where, "-device", "cpu", "-pretrained_weights", output)
    assert "Loading pretrained weights from file" in nnunet.run(*train).stdout
    results = nnunet.results / raw.name / f"{short}__{plans_name}__2d_stock_start" / "fold_0"
    final = torch.load(results / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert final.keys() == torch.load(output, weights_only=True)["network_weights"].keys()
    gates = [key for key in final if key.endswith(".gate")]
    assert gates and all(final[key] != 0 for key in gates)
