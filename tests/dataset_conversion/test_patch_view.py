import json

import dataset_phantoms as phantoms
import numpy as np
from dataset_phantoms import mask, save

from nnunetv2_xattnres import doctor
from nnunetv2_xattnres.cli import main


def plan(folder, patch, median):
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {"patch_size": patch, "median_image_size_in_voxels": median}
    (folder / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": configuration}}))


def test_what_a_patch_sees_is_said_by_convert_inspect_and_doctor(tmp_path, monkeypatch, capsys):
    preprocessed = tmp_path / "preprocessed"
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    source = phantoms.clinicdb(tmp_path / "source", range(1, 13))
    size = (1100, 1600)
    for number in range(1, 13):
        save(source / "Original" / f"{number}.png", np.full((*size, 3), number, np.uint8))
        save(source / "Ground Truth" / f"{number}.png", mask(number, size))
    assert main(["convert", "clinicdb", str(source)]) == 0
    said = capsys.readouterr().out
    assert "sees 14.9% of the median image (1100x1600): convert again with --size 352 352" in said
    assert main(["convert", "clinicdb", str(source), "--size", "64", "64", "--overwrite"]) == 0
    assert "median image" not in capsys.readouterr().out

    plan(preprocessed / "Dataset501_CVCClinicDB", [160, 110], [1100.0, 1600.0])
    assert main(["inspect", "501", "--cases", "0"]) == 0
    assert "a patch of 160x110 pixels sees 1.0% of the median image (1100x1600): convert" in capsys.readouterr().out
    assert ["1.0%" in finding.text for finding in doctor.check_patches()] == [True]
    plan(preprocessed / "Dataset501_CVCClinicDB", [1024, 1600], [1100.0, 1600.0])
    assert not list(doctor.check_patches())
