"""A short form of ``scripts/nnunet-matrix``: regions, an ignore label and a cascade, through all of its commands."""

import runpy
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunet_commands import run_command

from nnunetv2_xattnres.nnunet_layout import HOOK

SCRIPT = Path(__file__).parents[1] / "scripts" / "nnunet-matrix"


def draw(folder, cases):
    """Volumes of two blobs side by side, in the layout of the Medical Segmentation Decathlon."""
    generator = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    grid = np.indices((26, 32, 24))
    for case in range(cases):
        label = np.zeros(grid.shape[1:], np.uint8)
        for value, y in ((1, 10), (2, 21)):
            middle = generator.integers(-2, 3, 3) + np.array([13, y, 12])
            label[np.square(grid - middle[:, None, None, None]).sum(0) < 36] = value
        image = label * 40.0 + generator.normal(0, 10, label.shape)
        for part, data in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            file = folder / part / f"hippocampus_{case:03d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(data, np.diag([1, 1, 1, 1.0])), file)


def words(data, work):
    words = [data, "--work", work, "--settings", "regions+ignore", "--cases", 5, "--split", 2, "--folds", 0]
    words += ["--configurations", "3d_lowres", "3d_cascade_fullres", "--trainer", "nnUNetTrainer_XAttnRes_Short"]
    return [str(SCRIPT), *map(str, words)]


def fork(command, env, stdout, **_):
    """In place of ``subprocess.run``: each step in a process that starts faster, see ``nnunet_commands``."""
    words = command[1:] if command[1] == "-m" else [Path(command[0]).name, *command[1:]]
    quickest = {"nnUNet_n_proc_DA": "0"} if words[0] == "nnUNetv2_train" else {}
    done = run_command(words, env | quickest, timeout=1200)
    stdout.write(done.stdout + done.stderr)
    return done


@pytest.mark.slow
def test_the_cascade_with_regions_and_an_ignore_label(tmp_path, monkeypatch, capfd):
    draw(tmp_path / "data", 8)
    monkeypatch.setenv(HOOK, str(Path(__file__).parent / "short_trainers"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.argv", words(tmp_path / "data", tmp_path / "work"))
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr("subprocess.run", fork)
    assert script["main"]() == 0, capfd.readouterr()
    monkeypatch.undo()
    table = (tmp_path / "work" / "matrix.md").read_text().splitlines()[2:]
    assert all(line.split("|")[3].strip() == "0" for line in table)
    steps = [line.split("|")[2].strip() for line in table]
    assert [f"train 3d_lowres, fold {fold}" for fold in range(2)] == [
        s for s in steps if s.startswith("train 3d_lowres")
    ]
    for step in ("train 3d_cascade_fullres, fold 0", "apply_postprocessing, as printed"):
        assert step in steps

    # a second start does nothing again
    before = (tmp_path / "work" / "steps.json").stat().st_mtime_ns
    logs = {log: log.stat().st_mtime_ns for log in (tmp_path / "work" / "logs").iterdir()}
    again = subprocess.run(
        [sys.executable, *words(tmp_path / "data", tmp_path / "work")], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert logs == {log: log.stat().st_mtime_ns for log in (tmp_path / "work" / "logs").iterdir()}
    assert (tmp_path / "work" / "steps.json").stat().st_mtime_ns >= before
