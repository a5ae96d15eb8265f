import dataset_phantoms as phantoms
import nibabel as nib
import numpy as np
import pytest
from dataset_phantoms import AFFINE, snapshot

from nnunetv2_xattnres.dataset_conversion.synapse import TEST, TRAINING, Synapse
from nnunetv2_xattnres.errors import InputError

# BTCV's code: ours
ORGANS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 0, 6: 6, 7: 7, 8: 8, 9: 0, 10: 0, 11: 5, 12: 0, 13: 0}


def test_transunets_lists():
    assert (len(TRAINING), len(TEST)) == (18, 12)
    assert {*TRAINING, *TEST} == set(phantoms.BTCV)


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "NII.GZ"])
def test_voxels_headers_and_organs(tmp_path, ending):
    source = phantoms.synapse(tmp_path / "source", (1, 5, 6), ending)
    folder = Synapse().convert(source, raw=tmp_path / "raw").folder
    assert folder.name == "Dataset504_Synapse"
    for number, part in ((1, "Ts"), (5, "Tr"), (6, "Tr")):
        original = nib.load(source / "RawData" / "Training" / "img" / f"img{number:04d}.{ending}")
        image = nib.load(folder / f"images{part}" / f"case{number:04d}_0000.nii.gz")
        assert image.header.binaryblock == original.header.binaryblock  # affine, units, everything
        assert image.get_data_dtype() == np.int16
        assert np.array_equal(np.asarray(image.dataobj), np.asarray(original.dataobj))
        codes = nib.load(source / "RawData" / "Training" / "label" / f"label{number:04d}.{ending}")
        label = nib.load(folder / f"labels{part}" / f"case{number:04d}.nii.gz")
        assert label.affine.tobytes() == codes.affine.tobytes()
        assert label.header["descrip"] == codes.header["descrip"]
        assert label.get_data_dtype() == np.uint8
        expected = np.vectorize(ORGANS.get)(np.asarray(codes.dataobj))
        assert set(np.unique(expected)) == set(range(9))
        assert np.array_equal(np.asarray(label.dataobj), expected)


def test_all_thirty(tmp_path):
    source = phantoms.synapse(tmp_path / "source")
    split = Synapse().convert(source, raw=tmp_path / "raw").split
    assert split.training == [f"case{number:04d}" for number in sorted(TRAINING)]
    assert split.test == [f"case{number:04d}" for number in sorted(TEST)]
    assert [len(fold["val"]) for fold in split.folds] == [4, 4, 4, 3, 3]

    literature = Synapse(splits="literature").convert(source, raw=tmp_path / "literature")
    assert literature.split.folds == [{"train": split.training, "val": split.test}]
    assert len(list((literature.folder / "labelsTr").iterdir())) == 30  # nnU-Net validates on what is in imagesTr
    assert len(list((literature.folder / "labelsTs").iterdir())) == 12
    assert "too good" in str(literature)


def test_parts_of_the_data_set(tmp_path):
    one = Synapse().convert(phantoms.synapse(tmp_path / "one", (5,)), raw=tmp_path / "raw1")
    assert not (one.folder / "splits_final.json").exists()
    assert "cannot be divided into folds" in str(one)
    three = Synapse().convert(phantoms.synapse(tmp_path / "three", (5, 6, 7)), raw=tmp_path / "raw3")
    assert [len(fold["train"]) for fold in three.split.folds] == [2, 2, 2]
    with pytest.raises(InputError, match="none of the 18 training volumes"):
        Synapse().convert(phantoms.synapse(tmp_path / "test", (1, 2)), raw=tmp_path / "raw")
    with pytest.raises(InputError, match="none of the 12 was found"):
        Synapse(splits="literature").convert(tmp_path / "three", raw=tmp_path / "raw")


def test_odd_units_are_mentioned(tmp_path):
    source = phantoms.synapse(tmp_path / "source", (5, 6))
    path = source / "RawData" / "Training" / "img" / "img0006.nii.gz"
    nib.save(nib.Nifti1Image(np.linspace(0, 1, 210, dtype=np.float32).reshape(7, 6, 5), AFFINE), path)
    summary = str(Synapse().convert(source, raw=tmp_path / "raw"))
    assert "img0006.nii.gz runs from 0 to 1: are these Hounsfield units?" in summary
    assert "img0005" not in summary


def test_every_problem_is_listed_and_nothing_is_written(tmp_path):
    source = phantoms.synapse(tmp_path / "source")
    images, labels = (source / "RawData" / "Training" / kind for kind in ("img", "label"))

    def rewrite(number, change_codes=lambda codes: codes, affine=AFFINE):
        path = labels / f"label{number:04d}.nii.gz"
        nib.save(nib.Nifti1Image(change_codes(np.asarray(nib.load(path).dataobj)), affine), path)

    shifted = AFFINE.copy()
    shifted[0, 3] += 0.5
    rewrite(1, affine=shifted)
    rewrite(2, lambda codes: np.where(codes == 13, 14, codes).astype(np.uint8))
    rewrite(3, lambda codes: codes + np.float32(0.5))
    rewrite(4, lambda codes: codes[:-1])
    (images / "img0005.nii.gz").write_bytes((images / "img0005.nii.gz").read_bytes()[:-60])
    (labels / "label0006.nii.gz").write_text("no volume")
    damaged = bytearray((labels / "label0022.nii.gz").read_bytes())
    damaged[-6] ^= 1  # in the checksum, which nibabel does not reach
    (labels / "label0022.nii.gz").write_bytes(damaged)
    (labels / "label0007.nii.gz").unlink()
    (images / "img0008.nii.gz").unlink()
    for folder in (images, labels):
        (folder / f"{folder.name}0009.nii.gz").rename(folder / f"{folder.name}0050.nii.gz")
    (images / "IMG0010.nii").write_bytes(b"")
    sheared = AFFINE.copy()
    sheared[0, 1] += 0.2
    for kind, folder in (("img", images), ("label", labels)):
        path = folder / f"{kind}0021.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), sheared), path)
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as caught:
        Synapse().convert(source, raw=tmp_path / "raw")
    expected = (
        (labels / "label0001.nii.gz", "has another affine than img0001.nii.gz"),
        (labels / "label0002.nii.gz", "has the codes 14; BTCV's are 0 to 13"),
        (labels / "label0003.nii.gz", "has the codes 0.5, 1.5, 2.5, 3.5, 4.5 and 9 more; BTCV's"),
        (labels / "label0004.nii.gz", "has the shape (6, 6, 5), its image (7, 6, 5)"),
        (images / "img0005.nii.gz", "is unreadable or cut off"),
        (labels / "label0006.nii.gz", "is unreadable or cut off"),
        (labels / "label0022.nii.gz", "is unreadable or cut off (CRC check failed"),
        (images / "img0007.nii.gz", "has no mask"),
        (labels / "label0008.nii.gz", "is a mask without an image"),
        (images / "img0050.nii.gz", "is none of the 30 volumes"),
        (images / "img0021.nii.gz", "nnU-Net's reader refuses it (ITK only supports orthonormal direction cosines"),
        (images / "img0010.nii.gz", "a second file for the same case, beside IMG0010.nii"),
    )
    for path, reason in expected:
        assert any(problem.startswith(f"{path}: {reason}") for problem in caught.value.problems), (path, reason)
    assert snapshot(tmp_path) == before


COLOURS = np.dtype([(name, "u1") for name in "RGB"])


@pytest.mark.parametrize("kind", ["img", "label"])
@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (0, COLOURS, "holds colours, expected one real number per voxel"),
        (1j, np.complex64, "holds complex numbers, expected one real number per voxel"),
        (np.nan, np.float32, "holds values that are not finite (NaN or infinity)"),
        (-np.inf, np.float64, "holds values that are not finite (NaN or infinity)"),
    ],
    ids=["colours", "complex", "nan", "infinity"],
)
def test_voxels_that_are_no_finite_numbers_are_refused(tmp_path, kind, value, dtype, reason):
    source = phantoms.synapse(tmp_path / "source", (5, 6))
    path = source / "RawData" / "Training" / kind / f"{kind}0006.nii.gz"
    voxels = np.zeros((7, 6, 5), dtype)
    voxels[3, 3, 3] = value
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    with pytest.raises(InputError) as caught:
        Synapse().convert(source, raw=tmp_path / "raw")
    assert caught.value.problems == [f"{path}: {reason}"]
    assert not (tmp_path / "raw").exists()


def test_no_such_layout(tmp_path):
    (tmp_path / "RawData" / "Training" / "img").mkdir(parents=True)
    with pytest.raises(InputError, match="has no RawData/Training with the folders img and label"):
        Synapse().convert(tmp_path, raw=tmp_path / "raw")


def test_real_volume(shared_data, tmp_path):
    folder = Synapse().convert(shared_data / "CT_sample", raw=tmp_path).folder
    source = shared_data / "CT_sample" / "RawData" / "Training"
    image = nib.load(folder / "imagesTr" / "case0005_0000.nii.gz")
    assert np.asarray(image.dataobj).min() < -900
    assert (folder / "imagesTr" / "case0005_0000.nii.gz").read_bytes() == (
        source / "img" / "img0005.nii.gz"
    ).read_bytes()
    codes = np.asarray(nib.load(source / "label" / "label0005.nii.gz").dataobj)
    organs = np.asarray(nib.load(folder / "labelsTr" / "case0005.nii.gz").dataobj)
    for code, organ in ORGANS.items():
        assert (organs[codes == code] == organ).all()


# what another project's number is in BTCV's code
TRANSUNET = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8, 5: 0, 9: 0, 10: 0, 12: 0, 13: 0}
FLARE = {6: 1, 2: 2, 1: 3, 11: 4, 8: 5, 9: 6, 12: 7, 13: 8, 4: 9, 5: 10, 7: 11, 10: 12, 3: 13}


def swapped(first, second):
    return {first: second, second: first}


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        (TRANSUNET, "TransUNet's 8 organs"),
        (FLARE, "is not in BTCV's code"),
        ({11: 10, 12: 11, 13: 12, 10: 13}, "is not in BTCV's code: 11 (pancreas)"),  # AMOS
        ({6: 0}, "lacks the code 6 (liver)"),
        (swapped(2, 3), "2 (right kidney) would be on the spleen's side"),
        (swapped(8, 9), "9 (inferior vena cava) would be on the spleen's side of 8 (aorta)"),
        (swapped(1, 7), "1 (spleen) would be in front of 7 (stomach)"),
        (swapped(1, 6), "6 (liver) would have"),
    ],
    ids=["transunet", "flare", "amos", "no liver", "kidneys", "vessels", "spleen and stomach", "spleen and liver"],
)
@pytest.mark.parametrize("turned", [1, -1], ids=["", "mirrored"])
def test_labels_in_another_code_are_refused(tmp_path, codes, reason, turned):
    """Volume by volume: the other one, in BTCV's code, is not named."""
    source = tmp_path / "source"
    affine = np.diag([-4.0 * turned, 4, 4, 1])
    for number in (5, 6):
        phantoms.abdomen(source, number, affine=affine)
    assert Synapse().convert(source, raw=tmp_path / "right").split.training == ["case0005", "case0006"]
    phantoms.abdomen(source, 6, codes, affine=affine)
    with pytest.raises(InputError) as caught:
        Synapse().convert(source, raw=tmp_path / "raw")
    assert len(caught.value.problems) == 1
    assert "label0006.nii.gz" in caught.value.problems[0]
    assert reason in caught.value.problems[0]
    assert not (tmp_path / "raw").exists()
