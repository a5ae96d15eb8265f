import argparse
import json

import pytest
import torch
from torch import nn

from nnunetv2_xattnres import cli
from nnunetv2_xattnres.architectures import XAttnResUNet
from nnunetv2_xattnres.benchmark import cases, measure, scaling
from nnunetv2_xattnres.benchmark.literal import LiteralXAttnRes, make_literal

ARGUMENTS = argparse.Namespace(device="cpu", repeats=1, compile=False, cpu_clock=False)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_literal_form_is_the_same_function(dims):
    torch.manual_seed(0)
    network = XAttnResUNet(**cases.unet_arguments(dims, 3, 4, (1, 2, 2) if dims == 3 else None, inputs=1))
    for name, parameter in network.named_parameters():
        if name.endswith("query"):
            nn.init.normal_(parameter)
    x = torch.rand(1, 1, *[16] * dims)
    expected = network(x)
    make_literal(network)
    assert sum(isinstance(m, LiteralXAttnRes) for m in network.modules()) == 5
    for a, b in zip(network(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_peak_memory_counts_what_is_alive_together():
    def chain(width):
        return nn.Sequential(nn.Linear(1000, width, bias=False), nn.Linear(width, 1, bias=False))

    x = torch.rand(1000, 1000)
    small, large = (measure._peak_memory(chain(width), x, ARGUMENTS) for width in (500, 1000))
    # the first layer's weights, the hidden map's gradient, and either the map or the weights' gradient
    assert large - small == pytest.approx(4 * 500 * 3 * 1000, rel=0.01)
    assert small > x.nbytes


def test_rows_and_tables_are_complete():
    networks = {"base": nn.Conv2d(1, 4, 3), "ours": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))}
    figures = measure.measure_networks(networks, (1, 1, 64, 64), ARGUMENTS, "test")
    for what in ("step", "inference", "memory"):
        assert set(figures[what]) == {"base", "ours"} and all(v > 0 for v in figures[what].values())
        assert figures[f"{what}_ratio"]["base"] == 1
    assert figures["memory_ratio"]["ours"] > 1
    text = measure.table([{"case": "unet-2d", "text": "a network", "shape": (1, 1, 64, 64), **figures}])
    assert "unet-2d: a network, 1x1x64x64" in text
    assert f"{figures['step_ratio']['ours']:.2f}x" in text


def test_scaling_table_and_plot(tmp_path, monkeypatch):
    for name, values in (("STAGES", (2,)), ("PATCHES", (16,)), ("WIDTHS", (4,)), ("HISTORIES", (1, 2))):
        monkeypatch.setattr(scaling, name, values)
    monkeypatch.setattr(
        scaling, "_unets", lambda stages, width: {"base": nn.Conv2d(3, 2, 1), "ours": nn.Conv2d(3, 4, 1)}
    )
    rows = scaling.measure(ARGUMENTS)
    assert [(row["factor"], row["value"]) for row in rows] == [
        ("stages", 2), ("patch side", 16), ("width", 4), ("history", 1), ("history", 2)
    ]  # fmt: skip
    assert len(scaling.table(rows).splitlines()) == 7
    scaling.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_json_and_refuses_what_cannot_be(tmp_path, monkeypatch, capsys):
    case = cases.Case("unet", (1, 3, 64, 64), "small")
    monkeypatch.setitem(cases.CASES, "unet-2d", case)
    file = tmp_path / "bench.json"
    assert cli.main(["bench", "--case", "unet-2d", "--repeats", "1", "--no-literal", "--json", str(file)]) == 0
    row = json.loads(file.read_text())["rows"][0]
    assert row["shape"] == [1, 3, 64, 64]
    assert row["macs"]["ours"] > row["macs"]["base"] > 0 and min(row["bandwidth"].values()) > 0
    out = capsys.readouterr().out
    assert "unet-2d: small" in out and "with XAttnRes +" in out and "a copy: " in out
    assert cli.main(["bench", "--json", str(file)]) == 2
    assert f"{file} exists already: --overwrite replaces it" in capsys.readouterr().err
    assert cli.main(["bench", "--threads", "-1"]) == 2
    assert cli.main(["bench", "--kernel", "fast"]) == 2
    assert "plain, numba" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert cli.main(["bench", "--device", "cuda"]) == 2
        assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--plot growth.png", "--plot draws what --scaling measures"),
        ("--scaling --case unet-2d", "does not go with --case"),
        ("--scaling --plot growth", "--plot growth: the name of the picture ends in .png"),
        ("--scaling --plot growth.foo", "--plot growth.foo: the name of the picture ends in .png"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_measured(
    tmp_path, monkeypatch, capsys, options, message
):
    def measured(*_):
        raise AssertionError("measured")

    monkeypatch.chdir(tmp_path)
    for module in (measure, scaling):
        monkeypatch.setattr(module, "measure", measured)
    assert cli.main(["bench", *options.split(), "--json", "growth.json"]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_measurements(tmp_path, monkeypatch):
    def cannot(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(scaling, "measure", lambda args: [])
    monkeypatch.setattr(scaling, "plot", cannot)
    file = tmp_path / "growth.json"
    with pytest.raises(RuntimeError, match="no font"):
        cli.main(["bench", "--scaling", "--plot", str(tmp_path / "growth.PNG"), "--json", str(file)])
    assert json.loads(file.read_text())["rows"] == []
