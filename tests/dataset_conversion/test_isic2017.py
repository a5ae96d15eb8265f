import shutil

import dataset_phantoms as phantoms
import numpy as np
import pytest
from dataset_phantoms import mask, save, snapshot
from PIL import Image

from nnunetv2_xattnres.dataset_conversion.isic2017 import ISIC2017
from nnunetv2_xattnres.errors import InputError


def test_owners_division_and_native_sizes(tmp_path):
    source = phantoms.isic2017(tmp_path / "source")
    summary = ISIC2017().convert(source, raw=tmp_path / "raw")
    assert summary.folder.name == "Dataset503_ISIC2017"
    (fold,) = summary.split.folds
    assert fold["train"] == [f"ISIC_{number:07d}" for number in range(1, 11)]
    assert fold["val"] == [f"ISIC_{number:07d}" for number in range(11, 14)]
    assert summary.split.test == [f"ISIC_{number:07d}" for number in range(14, 18)]
    for number in range(1, 18):
        (image,) = summary.folder.glob(f"images*/ISIC_{number:07d}_0000.png")
        (label,) = summary.folder.glob(f"labels*/ISIC_{number:07d}.png")
        (original,) = source.glob(f"*_Data/ISIC_{number:07d}.[jJ]*")
        assert np.array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(original)))
        assert np.array_equal(np.asarray(Image.open(label)), mask(number, (20 + number, 30 + 2 * number)) > 0)


def test_every_problem_is_listed_and_nothing_is_written(tmp_path):
    source = phantoms.isic2017(tmp_path / "source")
    data, truth = source / "ISIC-2017_Training_Data", source / "ISIC-2017_Training_Part1_GroundTruth"
    shutil.rmtree(source / "ISIC-2017_Validation_Part1_GroundTruth")
    shutil.copy(data / "ISIC_0000001.jpg", source / "ISIC-2017_Test_v2_Data")
    shutil.copy(truth / "ISIC_0000001_Segmentation.png", source / "ISIC-2017_Test_v2_Part1_GroundTruth")
    shutil.copy(data / "ISIC_0000002.jpg", data / "isic_0000002.JPG")
    shutil.copy(truth / "ISIC_0000003_Segmentation.png", truth / "ISIC_0000003_segmentation.png")
    cut = data / "ISIC_0000005.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    save(data / "image6.jpg", phantoms.picture(6))
    third = mask(7, (27, 44))
    third[0, 0] = 7
    save(truth / "ISIC_0000007_Segmentation.png", third)
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as caught:
        ISIC2017().convert(source, raw=tmp_path / "raw")
    for path, reason in (
        (source / "ISIC-2017_Validation_Part1_GroundTruth", "there is no such folder"),
        (source / "ISIC-2017_Test_v2_Data" / "ISIC_0000001.jpg", "is in ISIC-2017_Training_Data too"),
        (data / "isic_0000002.JPG", "a second file for the same case, beside ISIC_0000002.jpg"),
        (truth / "ISIC_0000003_segmentation.png", "a second file for the same case"),
        (cut, "is unreadable or cut off"),
        (data / "image6.jpg", "this name is not expected here"),
        (truth / "ISIC_0000007_Segmentation.png", "has a third colour (value 7)"),
    ):
        assert any(problem.startswith(f"{path}: {reason}") for problem in caught.value.problems), (path, reason)
    assert snapshot(tmp_path) == before


def test_real_images_in_the_owners_folders(shared_data, tmp_path):
    sample = shared_data / "ISIC_native_sample"
    smallest = sorted((sample / "images").iterdir(), key=lambda path: path.stat().st_size)[:6]
    for number, image in enumerate(smallest):
        part = ("Training", "Training", "Training", "Validation", "Test_v2", "Test_v2")[number]
        for folder, file in (
            (f"ISIC-2017_{part}_Data", image),
            (f"ISIC-2017_{part}_Part1_GroundTruth", sample / "masks" / f"{image.stem}_Segmentation.png"),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / folder)
    folder = ISIC2017().convert(tmp_path, raw=tmp_path / "raw").folder
    for image in smallest:
        (converted,) = folder.glob(f"images*/{image.stem}_0000.png")
        assert np.array_equal(np.asarray(Image.open(converted)), np.asarray(Image.open(image)))
