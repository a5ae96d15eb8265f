"""``nnunetv2_xattnres export``, on models as nnU-Net leaves them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model_phantom import discs, write_model
from PIL import Image
from torch import nn

import nnunetv2_xattnres
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.export import onnx_file, program, surroundings
from nnunetv2_xattnres.trained_model import load_predictor

onnx = pytest.importorskip("onnx", reason="export needs onnx")
pytest.importorskip("onnxscript", reason="export needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="the exported files are run by onnxruntime")

from nnunetv2_xattnres.export.predict_onnx import predict  # noqa: E402

FILES = ["export.json", "network.onnx", "network.pt2", "predict_onnx.py"]
FORMER = Path(__file__).parents[1] / "former" / "model"


def export(model, output, *arguments):
    return main(["export", "-m", str(model), "-o", str(output), *map(str, arguments)])


def change(file, **entries):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **entries}))


def predicted_by_nnunet(model, image, spacing):
    predictor = load_predictor(model, ["0"], mirroring=False, device="cpu")
    image = image.reshape(len(image), *(1,) * (4 - image.ndim), *image.shape[1:]).astype(np.float32)
    labels = predictor.predict_single_npy_array(image, {"spacing": spacing})
    return labels


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model", 2, [32, 48], classes=2)


@pytest.fixture(scope="module")
def exported(model):
    output = model.parent / "exported"
    assert export(model, output) == 0
    return output


def test_the_files(exported):
    assert sorted(path.name for path in exported.iterdir()) == FILES
    about = json.loads((exported / "export.json").read_text())
    assert about["input"]["shape"] == ["batch", 3, 32, 48] and about["output"]["shape"] == ["batch", 3, 32, 48]
    assert [channel["normalisation"] for channel in about["channels"]] == ["RGBTo01Normalization"] * 3
    assert about["model"]["configuration"] == "2d" and about["model"]["fold"] == "0"
    assert about["tiles"]["size"] == [32, 48] and about["tiles"]["step"] == 0.5
    assert about["mirroring_axes"] == [0, 1] and about["nonlinearity"] == "softmax"
    assert about["labels"] == {"background": 0, "class 1": 1, "class 2": 2} and about["regions"] is None
    assert about["script_lacks"] == []
    # what PyTorch's exporters note about the machine is gone
    places = [str(Path(module.__file__).parent).encode() for module in (nnunetv2_xattnres, torch)]
    assert [path.name for path in exported.iterdir() for place in places if place in path.read_bytes()] == []


def test_the_onnx_file_has_onnx_operators_alone_and_takes_any_batch(exported, model):
    content = onnx.load(exported / "network.onnx")
    onnx.checker.check_model(content, full_check=True)
    assert {node.domain for node in content.graph.node} == {""} and not content.functions
    network = load_predictor(model, ["0"], device="cpu").network.eval()
    session = onnxruntime.InferenceSession(exported / "network.onnx")
    for batch in (1, 3):
        x = torch.rand(batch, 3, 32, 48)
        (logits,) = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(x), rtol=1e-4, atol=1e-5)


def test_the_program_loads_without_this_package(exported, model, tmp_path):
    code = """
import sys
for name in ("nnunetv2", "nnunetv2_xattnres", "dynamic_network_architectures"):
    sys.modules[name] = None  # an import of it fails
import torch
x = torch.load("x.pt")
torch.save(torch.export.load(sys.argv[1]).module()(x), "y.pt")
"""
    x = torch.rand(3, 3, 32, 48)
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", code, str(exported / "network.pt2")], cwd=tmp_path, check=True)
    with torch.no_grad():
        expected = load_predictor(model, ["0"], device="cpu").network.eval()(x)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), expected)


# smaller than the tile, equal, larger and not a multiple of it, with and without a border that is cropped
@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("size", [(20, 30), (32, 48), (75, 101), (20, 101)])
def test_labels_are_nnunets(exported, model, size, border):
    random = np.random.default_rng(0)
    mask = discs(size, 2, random)
    image = np.stack([random.normal(90 + 40 * mask, 15).clip(1, 255).astype(np.uint8) for _ in range(3)])
    image[:, :, :border] = 0
    found = predict(image, folder=exported)
    assert found.dtype == np.uint8 and len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, predicted_by_nnunet(model, image, [1, 1, 1])[0])


def test_real_frames(exported, model, shared_data):
    frames = sorted((shared_data / "CVC-ClinicDB").rglob("*.png"))[:3]
    wrong = pixels = 0
    for path in frames:
        image = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        labels = predict(image, folder=exported)
        assert len(np.unique(labels)) > 1
        wrong += np.count_nonzero(labels != predicted_by_nnunet(model, image, [1, 1, 1])[0])
        pixels += labels.size
    assert pixels and wrong <= 1e-4 * pixels


def test_the_script_needs_numpy_and_onnxruntime_alone(exported, tmp_path):
    code = """
import runpy, sys
for name in ("torch", "scipy", "nnunetv2", "nnunetv2_xattnres", "onnx"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    shutil.copytree(exported, tmp_path / "moved")
    image = np.random.default_rng(0).integers(1, 255, (3, 40, 50), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    script = [sys.executable, "-c", code, str(tmp_path / "moved" / "predict_onnx.py"), "image.npy", "labels.npy"]
    subprocess.run([*script, "1", "1"], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), predict(image, folder=exported))
    failed = subprocess.run([*script, "2", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode and "resample it to [1.0, 1.0]" in failed.stderr


def test_what_the_script_cannot_predict(exported, tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 40, 50\), and not \[3 channels, \*axes\]"):
        predict(np.ones((2, 40, 50)), folder=exported)
    copy = shutil.copytree(exported, tmp_path / "copy")
    change(copy / "export.json", script_lacks=["the normalisation Own"])
    with pytest.raises(ValueError, match="lacks: the normalisation Own"):
        predict(np.ones((3, 40, 50)), folder=copy)


def test_parts_of_others_are_named(tmp_path):
    model = write_model(tmp_path / "model", 2, [32, 32])
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["2d"] |= {"normalization_schemes": ["Own"] * 3, "preprocessor_name": "Mine"}
    (model / "plans.json").write_text(json.dumps(plans))
    about = surroundings.describe(
        load_predictor(model, ["0"], device="cpu"), fold="0", checkpoint="x", opset=20, any_batch=False
    )
    assert about["script_lacks"] == ["the normalisation Own", "the preprocessor Mine"]
    assert about["input"]["shape"] == [1, 3, 32, 32] and about["input"]["dynamic_axes"] == []


def test_regions_masks_transposed_axes_and_volumes(tmp_path):
    model = write_model(tmp_path / "model", 3, [16, 16, 8], spacing=[1.5, 1.0, 2.0], transpose=(1, 2, 0))
    labels = {"background": 0, "all": [1, 2], "core": 2, "ignore": 3}
    change(model / "dataset.json", labels=labels, regions_class_order=[1, 2])
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True]
    (model / "plans.json").write_text(json.dumps(plans))
    assert export(model, tmp_path / "out") == 0
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["nonlinearity"] == "sigmoid" and about["regions_class_order"] == [1, 2] and about["ignore_label"] == 3
    assert about["regions"] == [[1, 2], 2]

    image = np.random.default_rng(0).uniform(1, 2, (1, 13, 22, 30)).astype(np.float32)
    image[:, :2] = image[:, :, -3:] = 0
    image[:, 5:8, 5:8, 5:8] = 0  # a hole
    spacing = [2.0, 1.5, 1.0]  # z, y, x; the plans have them as y, x, z
    found = predict(image, spacing, tmp_path / "out")
    assert {0, 1, 2} == set(np.unique(found))
    np.testing.assert_array_equal(found, predicted_by_nnunet(model, image, spacing))
    with pytest.raises(ValueError, match="spacing"):
        predict(image, [1.0, 1.5, 2.0], tmp_path / "out")


@pytest.mark.slow
def test_slices_of_a_ct(tmp_path):
    model = write_model(tmp_path / "model", 2, [16, 24], classes=2, spacing=[0.8, 0.8])
    plans = json.loads((model / "plans.json").read_text())
    facts = {"mean": 40.0, "std": 60.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0}
    plans["foreground_intensity_properties_per_channel"] = {str(channel): facts for channel in range(3)}
    plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"] * 3
    (model / "plans.json").write_text(json.dumps(plans))
    assert export(model, tmp_path / "out") == 0
    image = np.random.default_rng(0).normal(40, 80, (3, 4, 20, 50)).astype(np.float32)
    spacing = [5.0, 0.8, 0.8]
    found = predict(image, spacing, tmp_path / "out")
    assert found.shape == (4, 20, 50) and len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, predicted_by_nnunet(model, image, spacing))


@pytest.mark.slow
def test_a_trained_model_with_stock_commands(module_nnunet, tmp_path):
    nnunet = module_nnunet
    folder = tmp_path / "former"
    shutil.copytree(FORMER, folder)
    random = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for number, size in enumerate([(20, 20), (32, 32), (77, 50)]):
        picture = random.normal(90 + 70 * discs(size, 1, random), 20).clip(1, 255).astype(np.uint8)
        Image.fromarray(picture).save(images / f"disc_{number}_0000.png")
    nnunet.run("nnUNetv2_predict_from_modelfolder", "-i", images, "-o", tmp_path / "labels", "-m", folder, "-f", 0,
               "-device", "cpu", "--disable_tta", "-npp", 1, "-nps", 1)  # fmt: skip
    nnunet.run_here("export", "-m", folder, "-o", tmp_path / "out")
    found = set()
    for path in sorted(images.iterdir()):
        labels = predict(np.asarray(Image.open(path))[None], folder=tmp_path / "out")
        expected = np.asarray(Image.open(tmp_path / "labels" / path.name.replace("_0000", "")))
        np.testing.assert_array_equal(labels, expected)
        found |= set(np.unique(labels))
    assert found == {0, 1}


def check(capsys, message, model, output, *arguments):
    assert export(model, output, *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    return error


def test_what_cannot_be_used_is_said_before_anything_is_written(model, tmp_path, capsys):
    output = tmp_path / "out"
    check(capsys, r"names 2 folds, and a file holds one network", model, output, "-f", "0", "1")
    check(capsys, r"There is no such model(.|\n)*fold_3", model, output, "-f", "3")
    check(capsys, "Name the model once", model, output, "-d", "1", "-c", "2d")
    (tmp_path / "file").touch()
    check(capsys, "is a file", model, tmp_path / "file")
    assert not output.exists()
    output.mkdir()
    (output / "mine.txt").touch()
    check(capsys, "holds files of something else", model, output, "--overwrite")


def test_without_onnx_one_line_says_what_to_install(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    error = check(capsys, r"pip install 'nnunetv2_xattnres\[export\]'", model, tmp_path / "out")
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_failure_leaves_the_files_of_the_export_before(exported, model, tmp_path, capsys, monkeypatch):
    output = shutil.copytree(exported, tmp_path / "out")
    (output / "export.json").write_text("before")
    check(capsys, "has results already", model, output)

    def full(*_):
        raise OSError(28, "No space left on device")

    # the conversion is as above, and takes seconds
    done = None, onnx.load(exported / "network.onnx"), True
    monkeypatch.setattr(onnx_file, "trace_and_convert", lambda *_: done)
    monkeypatch.setattr(program, "save_program", full)
    check(capsys, "cannot be written", model, output, "--overwrite")
    assert (output / "export.json").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@torch.library.custom_op("exporttest::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


class Twice(nn.Module):
    def forward(self, x):
        return twice(x)


def test_operations_of_others_are_refused():
    with pytest.raises(InputError, match=r"(?s)without their package.*exporttest.twice"):
        program.trace(Twice(), 1, [8, 8])
    node = onnx.helper.make_node("Twice", ["x"], ["y"], domain="exporttest")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:])
    assert onnx_file.foreign_operators(onnx.helper.make_model(graph)) == ["exporttest::Twice"]


def test_a_network_that_cannot_be_traced():
    class Branch(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(InputError, match=r"torch\.export cannot trace Branch"):
        program.trace(Branch(), 1, [8, 8])


def test_a_network_that_fixes_the_batch_takes_a_batch_of_one(tmp_path):
    class Scaled(nn.Module):
        def forward(self, x):
            return x * len(x)

    traced, model, any_batch = onnx_file.trace_and_convert(Scaled(), 1, [4, 6])
    assert not any_batch
    torch.testing.assert_close(traced.module()(x := torch.rand(1, 1, 4, 6)), x)
    assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 4, 6]
    onnx_file.save_model(model, tmp_path / "network.onnx")
    assert onnx_file.compare(tmp_path / "network.onnx", Scaled(), (1, 1, 4, 6)) == 0


def test_other_logits_are_refused(exported):
    class Zero(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), 3, 32, 48)

    with pytest.raises(InputError, match="computes other logits"):
        onnx_file.compare(exported / "network.onnx", Zero(), (1, 3, 32, 48))


def test_a_file_that_onnxruntime_refuses(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="onnxruntime cannot run the file"):
        onnx_file.compare(tmp_path / "network.onnx", nn.Identity(), (1, 3, 8, 8))


def test_large_weights_are_in_a_second_file(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "SINGLE_FILE", 0)
    onnx_file.save_model(onnx.load(exported / "network.onnx"), tmp_path / "network.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.onnx", "network.onnx.data"]
    x = {"image": np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32)}
    one, two = (onnxruntime.InferenceSession(folder / "network.onnx").run(None, x) for folder in (exported, tmp_path))
    np.testing.assert_array_equal(one[0], two[0])
