"""The catalogue is the only list of networks, variants and studies: an entry is found everywhere, without more."""

import ast
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import nnunetv2_xattnres
from nnunetv2_xattnres.ablation.report import write_report
from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.catalogue import NETWORKS, STUDIES, VARIANTS, Labels, Network, Variant
from nnunetv2_xattnres.cli import main

ROOT = Path(__file__).parents[1]
PACKAGE = Path(nnunetv2_xattnres.__file__).parent
for folder in ("ablation", "plans"):
    sys.path.append(str(Path(__file__).parent / folder))

import plans_phantom  # noqa: E402
from report_study import make_study  # noqa: E402


class MadeUpNet(nn.Module):
    """The smallest network that a plans file can name."""

    def __init__(
        self, input_channels, num_classes, routing=None, input_size=None, strides=None, deep_supervision=False
    ):
        super().__init__()
        self.routing = Routing.parse(routing)
        self.decoder = nn.Module()
        self.decoder.deep_supervision = deep_supervision
        self.head = nn.Conv2d(input_channels, num_classes, 3, padding=1)

    def forward(self, x):
        out = self.head(x)
        return [out, out] if self.decoder.deep_supervision else out


@pytest.fixture
def made_up(monkeypatch):
    """One entry for a network, and one for a variant."""
    network = Network("made-up", "Made-up net", f"{__name__}.MadeUpNet", outputs=2, places=("encoder", "decoder"))
    variant = Variant("half", True, False, True, "half of it", "#123456", {"skip": Labels("half", "half bar")})
    monkeypatch.setitem(NETWORKS, network.key, network)
    monkeypatch.setitem(VARIANTS, variant.key, variant)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    folder = tmp_path / "preprocessed" / "Dataset011_Polyps"
    plans_phantom.write(folder)
    (folder / "nnUNetPlans_2d").mkdir()
    for case in range(5):
        for name in (f"case_{case}.b2nd", f"case_{case}_seg.b2nd"):
            (folder / "nnUNetPlans_2d" / name).write_bytes(b"data")
    return folder


def test_an_entry_is_planned(made_up, dataset, capsys):
    assert main(["plan", "11", "--network", "made-up", "--study", "skip"]) == 0
    assert "nnUNetv2_train 11 2d_made_up_half " in capsys.readouterr().out
    plans = json.loads((dataset / "nnUNetXAttnResPlans.json").read_text())
    architecture = plans["configurations"]["2d_made_up_half"]["architecture"]
    assert architecture["network_class_name"] == f"{__name__}.MadeUpNet"
    assert architecture["arch_kwargs"]["routing"] == {"skip_connections": True, "encoder": False, "decoder": True}
    assert architecture["arch_kwargs"]["strides"] == [[1, 1]] * 4  # for two outputs


def test_an_entry_has_its_cost(made_up, capsys):
    command = ["complexity", "--network", "made-up", "unet", "--routing", "half", "--size", "32", "32", "--json"]
    assert main(command) == 0
    rows = {(row["network"], row["routing"]): row for row in json.loads(capsys.readouterr().out)["networks"]}
    assert rows["made-up", "half"]["parameters"] == 3 * 9 + 1
    assert ("unet", "half") in rows


def test_an_entry_is_a_cell_of_a_study(made_up, dataset, tmp_path, capsys):
    command = ["ablate", "11", "--network", "made-up", "--seeds", "1", "--dry-run", "--output", str(tmp_path / "study")]
    assert main(command) == 0
    assert "2d_made_up_half__fold0__seed0" in capsys.readouterr().out


def test_an_entry_is_in_the_report(made_up, tmp_path):
    study = make_study(tmp_path, variants=("baseline", "both", "half"), networks=("made-up",), skip=("half",))
    page = write_report(study).read_text(encoding="utf-8")
    assert "Made-up net (half of it)" in page and "Made-up net: skip connections" in page
    assert "half bar" in page and "#123456" in page


def test_a_network_without_xattnres_has_its_baseline_only(monkeypatch, dataset, capsys):
    plain = Network("plain", "Plain", f"{__name__}.MadeUpNet", outputs=2)
    monkeypatch.setitem(NETWORKS, "plain", plain)
    assert main(["plan", "11", "--network", "plain"]) == 0
    capsys.readouterr()
    plans = json.loads((dataset / "nnUNetXAttnResPlans.json").read_text())["configurations"]
    assert [name for name in plans if "_plain_" in name] == ["2d_plain_baseline"]
    assert "routing" not in plans["2d_plain_baseline"]["architecture"]["arch_kwargs"]


def test_no_other_file_lists_networks_or_variants():
    found = {}
    # "encoder" and "decoder" are words of their own: parts of a network, keys of a routing
    names = [set(NETWORKS), set(VARIANTS) - {"encoder", "decoder"}, set(STUDIES) - {"position", "init"}]
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "catalogue.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            words = {part.value for part in parts if isinstance(part, ast.Constant)}
            if any(len(words & kind) > 1 for kind in names):
                found[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = words
    assert found == {}


def test_the_documented_networks_are_those_of_the_catalogue():
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| (yes|no) \| (yes|no) \|", text, re.MULTILINE)
    said = {
        key: (name, [dims for dims, has in ((2, two), (3, three)) if has == "yes"]) for key, name, two, three in rows
    }
    assert said == {key: (each.class_name.rsplit(".", 1)[-1], list(each.dimensions)) for key, each in NETWORKS.items()}


def test_the_documented_studies_are_those_of_the_catalogue():
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`2d_.*`) \| `(\w+)` \| (?:Tables? |none )", text, re.MULTILINE)
    said = {study: [name.removeprefix("2d_") for name in re.findall(r"`(2d_\w+)`", names)] for names, study in rows}
    assert said == {
        key: list(study.variants) for key, study in STUDIES.items() if study.variants and not study.compares
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_what_its_entry_says(network):
    entry = NETWORKS[network]
    module, _, name = entry.class_name.rpartition(".")
    assert isinstance(getattr(import_module(module), name), type(torch.nn.Module))
    assert set(entry.paper_cost) <= set(VARIANTS) and STUDIES["skip"].base in entry.variants
