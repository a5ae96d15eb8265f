"""Models, plans and images from elsewhere that would run a program or fill the memory: refused, and nothing written."""

import gzip
import io
import json
import os
import pickle
import re
import stat
import struct
import subprocess
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from model_phantom import write_frames, write_model, write_volume
from nnunetv2.model_sharing import model_import

from nnunetv2_xattnres import Predictor, trainers
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.dataset_conversion.images import ImageProblem, read_pixels
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import FINAL
from nnunetv2_xattnres.reading import check_whole
from nnunetv2_xattnres.untrusted import check_architecture, check_checkpoint

MEMORY = 64 * 2**30  # so that the tests do not depend on the machine
FORMER = Path(__file__).parent / "former"
RAN = []


def run(*arguments, **named):
    RAN.append((arguments, named))


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What ran that must not run; nothing of it does, whatever fails."""
    RAN.clear()
    for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (subprocess, "call")):
        monkeypatch.setattr(module, name, run)
    yield
    assert RAN == []


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr("nnunetv2_xattnres.reading.memory_bytes", lambda: MEMORY)


def refused(command, capsys, *said, lines=1):
    """The command ends with 2 and one message."""
    assert main([str(word) for word in command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == lines and "Traceback" not in error, error
    for words in said:
        assert words in error
    return error


# --- plans -----------------------------------------------------------------------------------------------------------

PROGRAMS = [
    "os.system",  # in Python's library
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "eval",
    "antigravity.fly",  # importing it opens a browser
    "torch.load",
    "torch.os.system",
    "torch.hub.load",
    "torch.nn",  # a module
    "torch.nn.Parameter",  # a class of another kind
    "numpy.load",
    "nnunetv2_xattnres.cli.main",
    "missing_package.deepcopy",  # nnU-Net then looks for deepcopy in the modules of its networks
    "torch.nn.Conv2d; import os",
    "../evil.py",
    "",
    "os.system('true')",
    ["os.system"],
    {"torch": "nn"},
]
LAYERS = ["conv_op", "norm_op", "nonlin", "dropout_op"]


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model", 2, [16, 16])


@pytest.fixture
def routing(model, tmp_path):
    images, _ = write_frames(tmp_path, 1, (16, 16))
    return ["routing", "-m", model, "-f", "0", "-device", "cpu", "-i", images, "-o", tmp_path / "out"]


def change_plans(file, change, configuration="2d"):
    plans = json.loads(file.read_text())
    change(plans["configurations"][configuration]["architecture"])
    file.write_text(json.dumps(plans))
    return plans


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_as_the_network_of_a_model(model, routing, tmp_path, capsys, program):
    change_plans(model / "plans.json", lambda architecture: architecture.update(network_class_name=program))
    refused(routing, capsys, "plans.json", "network_class_name")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="network_class_name"):
        Predictor(model, device="cpu")


@pytest.mark.parametrize("key", LAYERS)
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "missing_package.deepcopy"])
def test_a_program_as_a_layer(key, program):
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv2d", "dropout_op": None, key: program},
        "_kw_requires_import": ["conv_op", "dropout_op", key],
    }
    with pytest.raises(InputError, match=f"MyPlans, 2d names .*{key} is ") as error:
        check_architecture(architecture, "MyPlans, 2d")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "architecture",
    [
        None,
        "os.system",
        {"network_class_name": "torch.nn.Identity"},
        {"network_class_name": "torch.nn.Identity", "arch_kwargs": [], "_kw_requires_import": "conv_op"},
    ],
)
def test_an_architecture_of_another_form(model, routing, tmp_path, capsys, architecture):
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"] = architecture
    (model / "plans.json").write_text(json.dumps(plans))
    refused(routing, capsys, "configuration 2d")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Conv3d",
        "torch.nn.modules.instancenorm.InstanceNorm2d",
        "torch.nn.LeakyReLU",
        "torch.nn.functional.relu",
        "dynamic_network_architectures.building_blocks.residual.BasicBlockD",
        "nnunetv2_xattnres.architectures.XAttnRes",
        None,
    ],
)
def test_layers_pass(name):
    network = "moved.somewhere.PlainConvUNet"  # nnU-Net finds it by its last name
    check_architecture({"network_class_name": network, "arch_kwargs": {"x": name}, "_kw_requires_import": ["x"]}, "")


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset011_Discs"
    folder.mkdir(parents=True)
    for name in ("nnUNetPlans.json", "dataset.json"):
        (folder / name).write_bytes((FORMER / name).read_bytes())
    return folder


@pytest.mark.parametrize("command", ["plan 11", "ablate 11 --dry-run", "ablate 11 --output study"])
@pytest.mark.parametrize("key", ["network_class_name", "conv_op"])
def test_plans_that_name_a_program_make_no_variants(dataset, tmp_path, monkeypatch, capsys, command, key):
    monkeypatch.chdir(tmp_path)

    def change(architecture):
        (architecture if key == "network_class_name" else architecture["arch_kwargs"])[key] = "os.system"

    change_plans(dataset / "nnUNetPlans.json", change)
    before = sorted(tmp_path.rglob("*"))
    assert main([*command.split(), "--study", "skip"]) == 2
    assert "os.system" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_variants_that_name_a_program_are_not_used(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (dataset / "nnUNetPlans_2d").mkdir()
    file = dataset / "nnUNetXAttnResPlans.json"
    file.write_bytes((FORMER / file.name).read_bytes())
    change_plans(file, lambda architecture: architecture["arch_kwargs"].update(nonlin="os.system"), "2d_baseline")
    before = sorted(tmp_path.rglob("*"))
    refused(["ablate", "11", "--study", "skip", "--output", "study"], capsys, "2d_baseline", "nonlin is os.system")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("trainer", ["nnUNetTrainer_XAttnRes", "nnUNetTrainer_XAttnRes_Paper"])
def test_plans_that_name_a_program_are_not_trained(dataset, tmp_path, trainer):
    plans = change_plans(
        dataset / "nnUNetPlans.json", lambda architecture: architecture["arch_kwargs"].update(nonlin="os.system")
    )
    description = json.loads((dataset / "dataset.json").read_text())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"nonlin is os\.system"):
        getattr(trainers, trainer)(plans, "2d", 0, description, torch.device("cpu"))
    assert sorted(tmp_path.rglob("*")) == before


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Program:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return run, ("unpickled",)


class Unknown:
    pass


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


CHECKPOINTS = {
    "program": lambda path: torch.save({"network_weights": {}, "x": Program()}, path),
    "program as weights": lambda path: torch.save(Program(), path),
    "program in the old format": lambda path: legacy({"x": Program()}, path),
    "program in a pickle": lambda path: path.write_bytes(pickle.dumps(Program())),
    "program in an array": lambda path: torch.save({"x": np.array([Program()], dtype=object)}, path),
    "class": lambda path: torch.save({"x": Unknown()}, path),
    "function": lambda path: torch.save({"x": os.path.join}, path),
    "network": lambda path: torch.save(torch.nn.Linear(1, 1), path),
    "script": lambda path: torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), path),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no checkpoint"),
    "zip": lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:2000]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_with_more_than_weights(model, routing, tmp_path, capsys, kind):
    path = model / "fold_0" / FINAL
    CHECKPOINTS[kind](path)
    error = refused(routing, capsys, str(path))
    assert ("hold" in error and "can run any program" in error) or "cannot be read as a checkpoint" in error
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=FINAL):
        Predictor(model, device="cpu")


def test_what_nnunet_writes_passes(tmp_path):
    """Optimiser, log and arguments: see the contract in `nnUNetTrainer.save_checkpoint`."""
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    content = {
        "network_weights": OrderedDict(weight=parameter.data),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": torch.amp.GradScaler("cpu").state_dict(),
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "dice": [[np.float64(1)]], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": np.int64(3),
        "init_args": {"plans": {"a": [1, None]}, "fold": 0, "device": torch.device("cpu"), "done": np.bool_(True)},
        "inference_allowed_mirroring_axes": (0, 1),
        "array": np.arange(3.0),
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    check_checkpoint(tmp_path / "checkpoint.pth")
    check_checkpoint(FORMER / "model" / "fold_0" / FINAL)


def test_the_program_in_these_checkpoints_would_run():
    pickle.loads(pickle.dumps(Program()))
    assert RAN.pop() == (("unpickled",), {})


# --- images ----------------------------------------------------------------------------------------------------------


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def bmp(width, height):
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 1000, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def tiff(width, height):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, height), (279, 4, 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)


def nifti(*shape, content=b"\0" * 100):
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + b"\0" * 4 + content


def mha(*shape):
    lines = ["ObjectType = Image", f"NDims = {len(shape)}", f"DimSize = {' '.join(map(str, shape))}",
             "ElementType = MET_FLOAT", "ElementDataFile = LOCAL", ""]  # fmt: skip
    return "\n".join(lines).encode()


def nrrd(*shape):
    lines = ["NRRD0004", "type: float", f"dimension: {len(shape)}", f"sizes: {' '.join(map(str, shape))}",
             "encoding: gzip", "endian: little", "", ""]  # fmt: skip
    return "\n".join(lines).encode() + gzip.compress(b"\0" * 100)


def long_gzip():
    """A small volume, and a hundred megabytes behind it."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(nifti(2, 2, 2))
        for _ in range(100):
            file.write(b"\0" * 2**20)
    return buffer.getvalue()


GB_100 = (3000, 3000, 3000)  # float32: 108 GB
IMAGES = {
    "huge.png": (png(180_000, 180_000), "decompression bomb"),
    "huge.bmp": (bmp(180_000, 180_000), "decompression bomb"),
    "huge.tif": (tiff(180_000, 180_000), "130 GB"),
    "huge.nii": (nifti(*GB_100), "108 GB"),
    "huge.nii.gz": (gzip.compress(nifti(*GB_100)), "108 GB"),
    "huge.mha": (mha(*GB_100), "108 GB"),
    "huge.nrrd": (nrrd(*GB_100), "108 GB"),
    "long.nii.gz": (long_gzip(), "unpacks to more than"),
    "short.nii": (nifti(10, 10, 10), "its header needs"),
    "cut.nii.gz": (gzip.compress(nifti(10, 10, 10, content=os.urandom(4000)))[:-2000], "end-of-stream"),
    **{f"empty{ending}": (b"", "empty (0 bytes)") for ending in (".png", ".bmp", ".tif", ".nii", ".nii.gz", ".mha")},
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_refused_before_it_is_unpacked(tmp_path, name):
    content, said = IMAGES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, EOFError), match=re.escape(said)):
        check_whole(tmp_path / name)


@pytest.mark.parametrize("name", ["huge.png", "huge.bmp", "huge.tif", "empty.png", "empty.bmp", "empty.tif"])
def test_a_frame_that_is_converted(tmp_path, name):
    (tmp_path / name).write_bytes(IMAGES[name][0])
    with pytest.raises(ImageProblem, match="unreadable"):
        read_pixels(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in IMAGES if not name.endswith((".mha", ".nrrd"))])
def test_commands_that_read_images(tmp_path, monkeypatch, capsys, name):
    content, said = IMAGES[name]
    ending = name.split(".", 1)[1]
    raw = tmp_path / "raw" / "Dataset001_Bad"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for folder in (raw / "imagesTr", raw / "labelsTr", tmp_path / "labels", tmp_path / "predictions"):
        folder.mkdir(parents=True)
    description = {
        "channel_names": {"0": "grey"}, "labels": {"background": 0, "a": 1}, "numTraining": 1,
        "file_ending": f".{ending}",
    }  # fmt: skip
    for folder in (raw, tmp_path):
        (folder / "dataset.json").write_text(json.dumps(description))
    for file in (
        raw / "imagesTr" / f"a_0000.{ending}", raw / "labelsTr" / f"a.{ending}",
        tmp_path / "labels" / f"a.{ending}", tmp_path / "predictions" / f"a.{ending}",
    ):  # fmt: skip
        file.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    assert main(["evaluate", "labels", "predictions"]) == 2
    error = capsys.readouterr().err
    assert "cannot be used: " in error and said in error and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["inspect", "1", "--cases", "0"]) == 1  # a check failed
    shown = "".join(capsys.readouterr())
    assert "cannot be read" in shown and said in shown and "Traceback" not in shown


@pytest.mark.parametrize("name", ["huge.png", "empty.png"])
def test_a_frame_whose_routing_is_asked_for(routing, tmp_path, capsys, name):
    (tmp_path / "images" / "frame_0_0000.png").write_bytes(IMAGES[name][0])
    refused(routing, capsys, "frame_0_0000.png", IMAGES[name][1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["huge.nii.gz", "cut.nii.gz", "long.nii.gz", "empty.nii.gz"])
def test_a_volume_whose_routing_is_asked_for(tmp_path, capsys, name):
    model = write_model(tmp_path / "model", 3, [8, 8, 8])
    images = write_volume(tmp_path / "images", (8, 8, 8), (1, 1, 1))
    (images / "volume_0000.nii.gz").write_bytes(IMAGES[name][0])
    command = ["routing", "-m", model, "-f", "0", "-device", "cpu", "-i", images, "-o", tmp_path / "out"]
    refused(command, capsys, "volume_0000.nii.gz", IMAGES[name][1])
    assert not (tmp_path / "out").exists()


def test_an_ending_that_climbs_out_of_the_results(model, routing, tmp_path, capsys):
    description = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps({**description, "file_ending": "/../../../evil.png"}))
    before = sorted(tmp_path.rglob("*"))
    refused(routing, capsys, "evil.png")
    assert sorted(tmp_path.rglob("*")) == before


# --- archives --------------------------------------------------------------------------------------------------------


def test_nnunet_installs_no_model_outside_of_its_folder(tmp_path, monkeypatch):
    """`nnUNetv2_install_pretrained_model_from_zip` is nnU-Net's; `zipfile` keeps all names below the folder."""
    results = tmp_path / "results"
    results.mkdir()
    outside = tmp_path / "outside"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("../climbs.txt", "x")
        archive.writestr("a/../../../climbs_too.txt", "x")
        archive.writestr(str(outside / "absolute.txt"), "x")
        archive.writestr(link, str(outside))
    monkeypatch.setenv("nnUNet_results", str(results))
    before = sorted(path for path in tmp_path.rglob("*") if results not in path.parents)
    model_import.install_model_from_zip_file(str(tmp_path / "model.zip"))
    assert sorted(path for path in tmp_path.rglob("*") if results not in path.parents) == before
    assert len([path for path in results.rglob("*") if path.is_file()]) == 4
    assert not any(path.is_symlink() for path in results.rglob("*"))
