"""Commands that stand for nnU-Net's in the tests of the grid: they leave the same files, and do as they are told."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.study import Study

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm-single-node.sh"

STUB = r"""#!{python}
import json, os, pathlib, sys, time, zipfile
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
root = pathlib.Path(os.environ["STUB_ROOT"])
results = pathlib.Path(os.environ["nnUNet_results"])

def value(flag):
    return arguments[arguments.index(flag) + 1]

def told(what, configuration):
    return (root / f"{{what}}_{{configuration}}").exists()

call = {{"name": name, "arguments": arguments, "pid": os.getpid(), "seed": os.environ["XATTNRES_SEED"]}}
call.update(results=str(results), gpu=os.environ.get("CUDA_VISIBLE_DEVICES"), hook=os.environ["nnUNet_extTrainer"])
with (root / "calls.jsonl").open("a") as file:
    file.write(json.dumps(call) + "\n")
if name == "nnUNetv2_train":
    dataset, configuration, fold = arguments[:3]
    folder = results / dataset / f"{{value('-tr')}}__{{value('-p')}}__{{configuration}}" / f"fold_{{fold}}"
    folder.mkdir(parents=True, exist_ok=True)
    if told("fail", configuration):
        print("something went wrong")
        sys.exit("KeyError: 'stub'")
    (folder / "training_log_1.txt").write_text("2026: \n2026: Epoch 7 \n2026: rate\n")
    zipfile.ZipFile(folder / "checkpoint_latest.pth", "w").close()
    while told("hang", configuration):
        time.sleep(0.05)
    (folder / "checkpoint_latest.pth").rename(folder / "checkpoint_final.pth")
    (folder / "validation").mkdir(exist_ok=True)
    for case in ("case_1", "case_2"):
        (folder / "validation" / f"{{case}}.png").write_text("mask")
    (folder / "validation" / "summary.json").write_text("{{}}")
elif name == "nnUNetv2_predict":
    output = pathlib.Path(value("-o"))
    output.mkdir(parents=True)
    (output / "case_9.png").write_text("mask")
else:
    pathlib.Path(value("--json")).write_text(json.dumps({{"mean": {{"dice": 0.5}}, "cases": []}}))
"""


@dataclass
class Stubs:
    """The stand-ins, what they were called with, and a study to run them on."""

    root: Path

    @property
    def commands(self) -> Path:
        return self.root / "commands"

    def tell(self, what: str, configuration: str) -> Path:
        """``fail`` or ``hang`` in the training of a configuration, until the file that this returns is removed."""
        path = self.root / f"{what}_{configuration}"
        path.touch()
        return path

    def calls(self, name: str = "nnUNetv2_train") -> list[dict]:
        import json

        log = self.root / "calls.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [call for call in map(json.loads, lines) if call["name"] == name]

    def study(self, *variants: str, seeds: tuple[int, ...] = (0,)) -> Study:
        cells = [Cell(f"2d_{name}", name, "unet", ("skip",), "T", 0, seed) for seed in seeds for name in variants]
        dataset = "Dataset001_Stub"
        json_file = self.root / "preprocessed" / dataset / "dataset.json"
        study = Study(self.root / "study", dataset, str(json_file), "P", "B", "2d", "T", cells)
        study.save()
        return study

    def environment(self) -> dict[str, str]:
        """For Python processes that are to use the stand-ins, whatever starts them."""
        site = self.root / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(
            "import os, nnunetv2_xattnres.ablation.cell as cell\n"
            f"cell.executable = lambda name: os.path.join({str(self.commands)!r}, name)\n"
        )
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path}

    def start(self, code: str) -> subprocess.Popen:
        """Run Python code with the stand-ins in another process."""
        return subprocess.Popen([sys.executable, "-c", code], env=self.environment(), stdout=subprocess.PIPE, text=True)


@pytest.fixture
def stubs(tmp_path, monkeypatch) -> Stubs:
    """Stand-ins for nnU-Net's commands in this process, and empty nnU-Net folders."""
    stubs = Stubs(tmp_path)
    stubs.commands.mkdir()
    for name in ("nnUNetv2_train", "nnUNetv2_predict", "nnunetv2_xattnres"):
        path = stubs.commands / name
        path.write_text(STUB.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("STUB_ROOT", str(tmp_path))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    dataset = tmp_path / "preprocessed" / "Dataset001_Stub"
    dataset.mkdir(parents=True)
    (dataset / "dataset.json").write_text('{"file_ending": ".png", "labels": {"background": 0, "disc": 1}}')
    monkeypatch.setattr("nnunetv2_xattnres.ablation.cell.executable", lambda name: str(stubs.commands / name))
    monkeypatch.setattr("nnunetv2_xattnres.ablation.cell.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("nnunetv2_xattnres.ablation.local.POLL_SECONDS", 0.1)
    return stubs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A SLURM of one node on this machine; everything of it is in a folder of its own."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)} not found): apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started by root only")
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:  # and the one above it, in all likelihood
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SLURM_SINGLE_NODE_PORT": str(port)}
    subprocess.run([SCRIPT, "start", folder], check=True, timeout=120, env=environment)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    del os.environ["SLURM_CONF"]
    subprocess.run([SCRIPT, "stop", folder], check=True, timeout=120)
