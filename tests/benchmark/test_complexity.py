import json

import pytest
import torch
from torch import nn

from nnunetv2_xattnres.benchmark.complexity import measure_all
from nnunetv2_xattnres.benchmark.cost import count_cost
from nnunetv2_xattnres.cli import main


def test_counts_what_is_computed():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.linear = nn.Linear(8, 4)

        def forward(self, x):
            return self.linear(self.conv(x).mean((2, 3)))

    cost = count_cost(Network, (2, 3, 16, 16))
    assert cost.parameters == 3 * 8 * 9 + 8 * 4 + 4
    assert cost.macs == 2 * (16 * 16 * 3 * 8 * 9 + 8 * 4)
    assert cost.activation_bytes == 4 * 2 * (16 * 16 * 8 + 8)  # float32 outputs of the convolution and of the mean


def test_freed_tensors_are_not_counted():
    class Chain(nn.Module):
        def forward(self, x):
            for _ in range(10):
                x = x + 1
            return x

    assert count_cost(Chain, (1, 1, 32, 32)).activation_bytes == 2 * 4 * 32 * 32


@pytest.mark.slow
def test_table_2():
    rows = {
        (row["network"], row["routing"]): row
        for row in measure_all(["paper-unet", "emcad"], ["baseline", "both"], [256, 256], 3, 1, "pvt_v2_b2")
    }
    for (network, parameters, macs), overhead in {
        ("paper-unet", 1.06, 2.50): (0.22, 0.37),
        ("emcad", 26.76, 5.60): (1.33, 0.16),
    }.items():
        base, both = rows[network, "baseline"], rows[network, "both"]
        assert round(base["parameters"] / 1e6, 2) == parameters
        assert abs(base["macs"] / 1e9 - macs) <= 0.015 * macs
        over = both["over_baseline"]
        assert 0 < over["parameters"] <= overhead[0] * 1e6
        # the projections alone, each at the smaller of its two sizes: less would mean that some were not seen
        least = {"paper-unet": 0.112e9, "emcad": 0.105e9}[network]
        assert least <= over["macs"] <= overhead[1] * 1e9
        assert both["paper"]["macs_over_baseline"] == round(overhead[1] * 1e9)
        assert over["activation_bytes"] > 0


def test_table_fits_a_terminal(capsys):
    assert main(["complexity", "--size", "64", "64", "--network", "unet", "paper-unet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("baseline" in line for line in lines[:-6]) == 2
    assert any("2.87 (+0.37)" in line for line in lines)


def test_json_and_3d(capsys):
    arguments = ["complexity", "--size", "16", "32", "32", "--channels", "1", "--routing", "baseline", "replace"]
    assert main([*arguments, "--network", "unet", "emcad", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input"] == [1, 1, 16, 32, 32]
    assert [(row["network"], row["routing"]) for row in found["networks"]] == [
        ("unet", "baseline"),
        ("unet", "replace"),
    ]
    replace = found["networks"][1]
    assert replace["over_baseline"]["macs"] == replace["macs"] - found["networks"][0]["macs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "32"], "two or three"),
        (["--size", "32", "32", "32", "--network", "emcad"], "2D networks"),
        (["--size", "33", "64", "--network", "unet"], "the next one is"),
        (["--size", "4", "4", "--network", "unet"], "give 8 or more"),
        (["--channels", "0"], "give at least 1"),
        (["--encoder", "resnet18"], "pvt_v2_b0, pvt_v2_b1"),
        (["--encoder", "pvt_v2_b0", "--network", "unet"], "pvt_v2_b0: no network here has an encoder"),
        (["--routing", "baseline_wide", "--network", "emcad"], "emcad can have baseline, noskip, replace, both"),
    ],
)
def test_networks_that_cannot_be(capsys, arguments, message):
    assert main(["complexity", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_measuring_takes_no_memory_for_weights():
    cost = count_cost(lambda: nn.Sequential(nn.Flatten(), nn.Linear(2**20, 2**14)), (1, 1, 1024, 1024))
    assert cost.parameters == 2**34 + 2**14  # 64 GiB
    assert torch.get_default_device().type == "cpu"  # and not meta


# billions of multiply-accumulates that an independent count of each publication's network gave
COUNTED = {
    "unet-plus-plus": 34.49, "attention-unet": 66.43, "deeplabv3-plus": 14.87, "unet-3-plus": 197.65, "pranet": 6.88,
    "caranet": 11.40, "transunet": 37.21, "uctransnet": 42.84, "pvt-cascade": 7.58, "polyp-pvt": 5.28,
    "ssformer": 11.06,
}  # fmt: skip
COUNTED_AT_224 = {"swin-unet": 5.86, "missformer": 5.4, "mt-unet": 40.3}


@pytest.mark.slow
@pytest.mark.parametrize(("side", "counted"), [(256, COUNTED), (224, COUNTED_AT_224)])
def test_the_comparison_networks_cost_what_others_counted(side, counted):
    rows = measure_all(list(counted), ["baseline"], (side, side), 3, 1)
    assert {row["network"]: row["macs"] / 1e9 for row in rows} == pytest.approx(counted, rel=0.02)
    for row in rows:  # and what the paper prints, whose figures come from several counters
        if row["paper"] and side == 256:
            assert row["macs"] == pytest.approx(row["paper"]["macs"], rel=0.04)
