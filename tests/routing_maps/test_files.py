import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from model_phantom import write_volume
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_xattnres.routing_maps.files import affine_of, map_file, map_name

ENTRIES = ("encoder 1", "current")


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_nifti_has_the_geometry_of_the_case(tmp_path, reader):
    source = write_volume(tmp_path / "images", (6, 5, 4), (1.0, 1.5, 3.0)) / "volume_0000.nii.gz"
    image, properties = reader().read_images([str(source)])
    affine = affine_of(properties)
    path = tmp_path / map_name("volume", "decoder 2", affine)
    assert path.name == "volume_decoder_2.nii.gz"
    with map_file(path, ENTRIES, image.shape[1:], affine) as file:
        file.add(image[0])
        file.add(1 - image[0])
    original, written = nib.load(source), nib.load(path)
    assert written.shape == (6, 5, 4, 2)
    assert np.allclose(written.affine, original.affine, atol=1e-4)
    assert np.allclose(written.get_fdata()[..., 0], original.get_fdata(), atol=1e-6)
    assert np.allclose(written.get_fdata().sum(-1), 1, atol=1e-6)
    volume, reference = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))
    assert volume.GetDimension() == 4
    assert np.allclose(volume.GetOrigin()[:3], reference.GetOrigin(), atol=1e-4)
    assert np.allclose(volume.GetSpacing()[:3], reference.GetSpacing(), atol=1e-4)


def test_npz_of_a_2d_image_loses_the_slice_axis(tmp_path):
    assert affine_of({"spacing": (999, 1, 1)}) is None
    assert affine_of({"sitk_stuff": {"spacing": (1, 1), "origin": (0, 0), "direction": (1, 0, 0, 1)}}) is None
    path = tmp_path / map_name("frame", "decoder 1", None)
    maps = np.random.default_rng(0).random((2, 1, 3, 4), dtype=np.float32)
    with map_file(path, ENTRIES, (1, 3, 4), None) as file:
        for entry in maps:
            file.add(entry)
    content = np.load(path)
    assert content["entries"].tolist() == list(ENTRIES)
    assert np.array_equal(content["weights"], maps[:, 0])


@pytest.mark.parametrize("affine", [None, np.eye(4)])
def test_what_fails_leaves_no_file(tmp_path, affine):
    with pytest.raises(RuntimeError), map_file(tmp_path / "maps", ENTRIES, (1, 3, 4), affine):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
