"""Short memory is not taken for a bad file, and messages name the cause and the way out."""

import dataset_phantoms as phantoms
import nibabel as nib
import numpy as np
import pytest
from dataset_phantoms import mask, save

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.dataset_conversion import images, synapse
from nnunetv2_xattnres.dataset_conversion.colondb import ColonDB
from nnunetv2_xattnres.dataset_conversion.layout import index_files
from nnunetv2_xattnres.dataset_conversion.raw_dataset import RawDataset
from nnunetv2_xattnres.dataset_conversion.synapse import Synapse
from nnunetv2_xattnres.errors import InputError

SHORT = [MemoryError(), RuntimeError("ITK ERROR: Failed to allocate memory for image."), RuntimeError("std::bad_alloc")]


def failing(error):
    def fails(*_args, **_options):
        raise error

    return fails


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_short_memory_is_no_bad_file(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    source = phantoms.colondb_png(tmp_path / "source")
    ColonDB().convert(source)
    volumes = phantoms.synapse(tmp_path / "volumes", (5, 6))
    monkeypatch.setattr(RawDataset, "_reader", failing(error))
    monkeypatch.setattr(images, "_read_with_pil", failing(error))
    monkeypatch.setattr(synapse, "check_whole", failing(error))
    for command in (
        ["convert", "colondb", str(source), "--dataset-id", "7"],
        ["convert", "synapse", str(volumes)],
        ["inspect", "502", "--cases", "0"],
    ):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert "out of memory" in message
        assert "--workers 1" in message
        assert "cut off" not in message


@pytest.mark.parametrize("grey", [1, 128], ids=["0 and 1", "resampled"])
def test_masks_that_are_not_black_and_white_convert_with_a_threshold(tmp_path, grey):
    source = phantoms.colondb_png(tmp_path / "source")
    for number in range(30, 50):
        pixels = mask(number) // 255 if grey == 1 else mask(number)
        if grey != 1:
            pixels[3, 3:9] = grey
        save(source / "masks" / f"{number}.png", pixels)
    with pytest.raises(InputError) as caught:
        ColonDB().convert(source, raw=tmp_path / "raw")
    assert len(caught.value.problems) == 20
    assert len(str(caught.value).splitlines()) == 2
    assert f"--mask-threshold {0 if grey == 1 else 127}" in str(caught.value)
    assert ("third colour" in str(caught.value)) == (grey != 1)
    summary = ColonDB(mask_threshold=0 if grey == 1 else 127).convert(source, raw=tmp_path / "raw")
    assert "1 polyp" in str(summary)
    with pytest.raises(InputError, match="expected 0 to 254"):
        ColonDB(mask_threshold=255)


def test_values_that_are_nearly_whole_are_printed_with_their_digits(tmp_path):
    source = phantoms.synapse(tmp_path / "source", (5, 6))
    path = source / "RawData" / "Training" / "label" / "label0005.nii.gz"
    codes = np.asarray(nib.load(path).dataobj).astype(np.float32)
    codes[codes == 1] = np.float32(1.0000001)
    nib.save(nib.Nifti1Image(codes, phantoms.AFFINE), path)
    with pytest.raises(InputError, match=r"has the codes 1\.0000001"):
        Synapse().convert(source, raw=tmp_path / "raw")


def test_unexpected_names_are_told_the_pattern_and_odd_digits_are_names(tmp_path):
    for name in ("²", "7", "a b"):
        (tmp_path / f"{name}.png").touch()
    problems = []
    assert set(index_files(tmp_path, r"(\w+)\.png", problems)) == {"²", "7"}
    assert problems == [f"{tmp_path / 'a b.png'}: this name is not expected here (but NAME.png)"]


def test_an_odd_digit_is_no_number_of_a_data_set(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        (tmp_path / "Dataset002_X").mkdir()
        RawDataset.open("²", tmp_path)
