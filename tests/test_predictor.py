"""``Predictor``: one array in Python gives what ``nnUNetv2_predict`` gives for its file, or one clear message."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from model_phantom import write_frames, write_model, write_volume
from nnunetv2.configuration import default_num_processes
from PIL import Image

from nnunetv2_xattnres import Predictor
from nnunetv2_xattnres.errors import InputError

FRAME = np.random.default_rng(0).integers(1, 255, (24, 40, 3), dtype=np.uint8)
VOLUME = np.random.default_rng(1).uniform(1, 2, (9, 18, 20)).astype(np.float32)
SPACING = (2.5, 1.2, 1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "2d", 2, [16, 16], classes=2)


@pytest.fixture(scope="module")
def frames(model):
    return Predictor(model, device="cpu", mirror=False)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "3d"
    return Predictor(write_model(folder, 3, [8, 16, 16], transpose=(1, 0, 2)), device="cpu", mirror=False)


def test_the_package_is_imported_without_torch():
    code = "import sys, nnunetv2_xattnres as p; print('torch' in sys.modules, p.Predictor, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("False") and done.stdout.endswith("True\n"), done.stderr


def test_labels_and_probabilities_of_a_frame(frames):
    labels = frames(FRAME)
    assert labels.shape == (24, 40) and labels.dtype == np.uint8 and len(np.unique(labels)) > 1
    probabilities = frames(FRAME, probabilities=True)
    assert probabilities.shape == (3, 24, 40) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0), labels)


@pytest.mark.parametrize(
    "same",
    [
        FRAME.astype(np.float64),
        torch.from_numpy(FRAME),
        Image.fromarray(FRAME),
        np.flip(np.ascontiguousarray(FRAME[:, ::-1]), 1),
        np.asfortranarray(FRAME),
        FRAME.astype(">i4"),
        FRAME.tolist(),
    ],
    ids=["float", "tensor", "PIL", "negative strides", "Fortran", "big-endian", "list"],
)
def test_the_same_pixels_in_other_forms(frames, same):
    np.testing.assert_array_equal(frames(same), frames(FRAME))


def test_calls_from_several_threads_give_what_they_give_one_after_another(tmp_path):
    predict = Predictor(write_model(tmp_path / "2d", 2, [16, 16], classes=2, folds=2), device="cpu", mirror=False)
    images = [np.roll(FRAME, shift, axis=0) for shift in range(8)]
    one_by_one, terminal = [predict(image, probabilities=True) for image in images], sys.stdout
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: predict(image, probabilities=True), images))
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert sys.stdout is terminal


def test_the_image_is_not_changed(frames):
    image = FRAME.astype(np.float32)
    frames(image)
    np.testing.assert_array_equal(image, FRAME)


def test_a_volume_with_or_without_its_channel(volumes):
    labels = volumes(VOLUME, SPACING)
    assert labels.shape == VOLUME.shape and len(np.unique(labels)) > 1
    np.testing.assert_array_equal(volumes(VOLUME[None], np.array(SPACING)), labels)
    assert volumes(VOLUME, SPACING, probabilities=True).shape == (2, *VOLUME.shape)


def test_spacing_is_in_the_order_of_the_axes(volumes):
    # turned together, image and spacing keep their meaning; only resampling sees the difference
    assert (volumes(VOLUME, SPACING) != volumes(VOLUME, SPACING[::-1])).any()


@pytest.mark.parametrize(
    ("image", "spacing", "said"),
    [
        (FRAME[..., 0], None, ["(24, 40, 1)", "H×W×3", "grey", "numpy.repeat"]),
        (FRAME[..., :1], None, ["numpy.repeat"]),
        (np.concatenate([FRAME, FRAME[..., :1]], -1), None, ["alpha", "[..., :3]"]),
        (FRAME.transpose(2, 0, 1), None, ["numpy.moveaxis(array, 0, -1)"]),
        (FRAME[..., :2], None, ["the channels of the training"]),
        (FRAME[None], None, ["(1, 24, 40, 3)", "one image"]),
        (FRAME[0, 0], None, ["(3,)"]),
        (FRAME, (1, 1), ["spacing", "leave it out"]),
        (FRAME[:0], None, ["empty"]),
        (FRAME > 3, None, ["bool", "integers or floats"]),
        (FRAME.astype(complex), None, ["complex128"]),
        (FRAME.astype(object), None, ["object"]),
        ("frame.png", None, ["str", "opened first"]),
        ([[1, 2], [3]], None, ["cannot be made a NumPy array"]),
        (torch.ones(4, 4, 3, requires_grad=True), None, ["tensor.detach().cpu().numpy()"]),
        (torch.ones(4, 4, 3, dtype=torch.bfloat16), None, ["cannot be made a NumPy array"]),
        (Image.fromarray(FRAME).convert("P"), None, ["mode P", 'convert("RGB")']),
        (Image.fromarray(FRAME).convert("HSV"), None, ["mode HSV", 'convert("RGB")']),
        (np.where(FRAME > 200, np.nan, FRAME), None, ["values that are NaN", "nan_to_num"]),
        (np.where(FRAME > 200, np.inf, FRAME), None, ["infinite"]),
        (np.full((24, 40, 3), 1e300), None, ["too large"]),
        (FRAME / 255, None, ["floats from 0.0", "0 to 255", "scale them"]),
        (FRAME.astype(np.uint16) * 257, None, ["trained on 0 to 255"]),
        (FRAME.astype(int) - 100, None, ["trained on 0 to 255"]),
    ],
)
def test_frames_that_cannot_be_used(frames, image, spacing, said):
    with pytest.raises(InputError) as error:
        frames(image, spacing)
    assert "\n" not in str(error.value)
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("image", "spacing", "said"),
    [
        (VOLUME, None, ["spacing is missing", "z, y, x", "mm"]),
        (VOLUME, (1, 1), ["2 numbers", "give 3"]),
        (VOLUME, 1.0, ["give 3 numbers"]),
        (VOLUME, "abc", ["give 3 numbers"]),
        (VOLUME, (0, 1, 1), ["more than 0"]),
        (VOLUME, (-1, 1, 1), ["more than 0"]),
        (VOLUME, (float("nan"), 1, 1), ["more than 0"]),
        (VOLUME, (float("inf"), 1, 1), ["more than 0"]),
        (np.stack([VOLUME, VOLUME]), SPACING, ["(2, 9, 18, 20)", "Z×Y×X", "1 channel(s)"]),
        (VOLUME[..., None], SPACING, ["numpy.moveaxis(array, -1, 0)"]),
        (VOLUME[None, None], SPACING, ["(1, 1, 9, 18, 20)"]),
        (VOLUME[:, :0], SPACING, ["empty"]),
        (VOLUME[0], SPACING, ["3 numbers: give 2", "y, x"]),
    ],
)
def test_volumes_that_cannot_be_used(volumes, image, spacing, said):
    with pytest.raises(InputError) as error:
        volumes(image, spacing)
    for words in said:
        assert words in str(error.value)


def test_intensities_of_another_scale_are_met_for_ct(tmp_path):
    folder = write_model(tmp_path / "ct", 3, [8, 16, 16])
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    properties = {"mean": 40.0, "std": 90.0, "percentile_00_5": -800.0, "percentile_99_5": 300.0}
    plans["foreground_intensity_properties_per_channel"] = {"0": properties}
    (folder / "plans.json").write_text(json.dumps(plans))
    predict = Predictor(folder, device="cpu", mirror=False)
    with pytest.raises(InputError, match="trained on values from about -800 to 300"):
        predict(VOLUME - 1, SPACING)
    assert predict(VOLUME * 100, SPACING).shape == VOLUME.shape
    assert predict(np.zeros_like(VOLUME), SPACING).shape == VOLUME.shape  # an empty image is no image from 0 to 1


def test_folds_that_are_there(tmp_path):
    folder = write_model(tmp_path / "model", 2, [16, 16], folds=2)
    both = Predictor(folder, device="cpu", mirror=False)(FRAME, probabilities=True)
    single = [Predictor(folder, folds=fold, device="cpu", mirror=False)(FRAME, probabilities=True) for fold in (0, "1")]
    assert np.abs(both - single[0]).max() > 1e-4
    named = Predictor(folder, folds=[0, 1], device="cpu", mirror=False)(FRAME, probabilities=True)
    np.testing.assert_array_equal(named, both)
    shutil.rmtree(folder / "fold_0")
    (folder / "fold_1").rename(folder / "fold_all")
    np.testing.assert_array_equal(Predictor(folder, device="cpu", mirror=False)(FRAME, probabilities=True), single[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"folds": 3}, ["no checkpoint_final.pth of fold 3", "fold_0/checkpoint_final.pth"]),
        ({"folds": (0, 7)}, ["fold 0, 7"]),
        ({"folds": []}, ["any fold"]),
        ({"checkpoint": "checkpoint_best.pth"}, ["no checkpoint_best.pth of any fold", "checkpoint_final.pth"]),
        ({"device": "cuda:77"}, ["cuda:77", 'choose device="cpu"']),
        ({"device": "gpu"}, ["gpu", 'choose device="cpu"']),
        ({"step_size": 0}, ["step_size is 0"]),
    ],
)
def test_models_that_cannot_be_opened(model, arguments, said):
    with pytest.raises(InputError) as error:
        Predictor(model, **{"device": "cpu", **arguments})
    for words in said:
        assert words in str(error.value)


def test_folders_that_are_no_model(model, tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        Predictor(tmp_path / "nothing")
    with pytest.raises(InputError, match="above fold_0") as error:
        Predictor(model / "fold_0")
    assert len(error.value.problems) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "workers"), [(2, 1), (3, 0)])  # without workers, all is done in one process
def test_predictions_are_those_of_nnunets_command(module_nnunet, tmp_path, dims, workers):
    configuration, name = ("2d", "Dataset001_Frames") if dims == 2 else ("3d_fullres", "Dataset002_Volumes")
    model = module_nnunet.results / name / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    if dims == 2:
        write_model(model, 2, [16, 16], classes=2, folds=2)
        images, _ = write_frames(tmp_path, 2, (24, 40))
        cases = [(path.name[:-9], np.asarray(Image.open(path)), None) for path in sorted(images.iterdir())]
    else:
        write_model(model, 3, [8, 16, 16], spacing=[1.5, 1.0, 1.0], transpose=(1, 0, 2), folds=2)
        images = write_volume(tmp_path / "images", (20, 18, 9), (1.0, 1.2, 2.5), margin=1)
        image = nib.load(images / "volume_0000.nii.gz")
        zooms = [float(zoom) for zoom in image.header.get_zooms()]
        cases = [("volume", np.asarray(image.dataobj).T, zooms[::-1])]
    output = tmp_path / "predictions"
    # with another number of threads, the last digit of a softmax can differ
    module_nnunet.environment["nnUNet_def_n_proc"] = str(default_num_processes)
    module_nnunet.run(
        "nnUNetv2_predict", "-d", name, "-c", configuration, "-f", 0, 1, "-i", images, "-o", output,
        "-device", "cpu", "--save_probabilities", "-npp", workers, "-nps", workers, hook=False,
    )  # fmt: skip
    predict = Predictor(model, device="cpu")
    for case, image, spacing in cases:
        if dims == 2:
            expected = np.asarray(Image.open(output / f"{case}.png"))
        else:
            expected = np.asarray(nib.load(output / f"{case}.nii.gz").dataobj).T
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(predict(image, spacing), expected)
        with np.load(output / f"{case}.npz") as file:
            probabilities = file["probabilities"]
        found = predict(image, spacing, probabilities=True)
        np.testing.assert_array_equal(found, probabilities.reshape(found.shape))
