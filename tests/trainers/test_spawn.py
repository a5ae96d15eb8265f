"""From plans to scores where processes are spawned, and where parent and children lack POSIX for our modules.

So it is on Windows, and the spawning on macOS as well. Nothing can be handed to a spawned process that cannot be
pickled, such as a function within a function.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from nnunet_commands import code_of
from phantom_plans import make_plans
from PIL import Image
from without_posix import make_site

pytestmark = pytest.mark.slow
TRAIN = """
import json, sys
import torch
from nnunetv2_xattnres.trainers import nnUNetTrainer_XAttnRes, nnUNetTrainer_XAttnRes_Paper

class Stock(nnUNetTrainer_XAttnRes):
    epochs, iterations, validation_iterations = 1, 2, 1

if __name__ == "__main__":
    plans, dataset_json = json.load(open(sys.argv[1]))
    for kind in (Stock, nnUNetTrainer_XAttnRes_Paper):
        trainer = kind(plans, "2d_both", 0, dataset_json, torch.device("cpu"))
        trainer.enable_deep_supervision = False
        trainer.run_training()
"""
MODEL = "results/Dataset001_Phantom/nnUNetTrainer_XAttnRes_Paper__nnUNetXAttnResPlans__2d_both"

# what preprocessing and exporting a prediction need beyond training
TRANSPOSED = {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
RESAMPLED = {
    **{f"resampling_fn_{of}": "resample_data_or_seg_to_shape" for of in ("data", "seg", "probabilities")},
    **{
        f"resampling_fn_{of}_kwargs": {"is_seg": of == "seg", "order": 1, "order_z": 0, "force_separate_z": None}
        for of in ("data", "seg", "probabilities")
    },
}


@pytest.fixture
def python(tmp_path):
    """Runs Python in such a process; the function gets Python's arguments, and returns what was printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(make_site(tmp_path / "site")), os.environ.get("PYTHONPATH", "")]),
        **{f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")},
        **{"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "XATTNRES_SEED": "1", "OMP_NUM_THREADS": "1"},
    }

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_from_plans_to_scores(tmp_path, python):
    recipe = {"epochs": 1, "scales": [1]}
    plans, dataset_json = make_plans(tmp_path, strides=[[1, 1]] * 3, recipe=recipe)
    plans |= {**TRANSPOSED, "foreground_intensity_properties_per_channel": {channel: {} for channel in "012"}}
    plans["configurations"]["2d_both"] |= RESAMPLED
    folder = tmp_path / "preprocessed" / "Dataset001_Phantom"
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    (folder / "train.json").write_text(json.dumps([plans, dataset_json]))
    (tmp_path / "train.py").write_text(TRAIN)
    python(tmp_path / "train.py", folder / "train.json")

    for name in ("images", "labelsTs"):
        (tmp_path / name).mkdir()
    for case in ("a", "b"):
        pixels = np.random.default_rng(ord(case)).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{case}_0000.png")
        Image.fromarray(pixels[..., 0] // 128).save(tmp_path / "labelsTs" / f"{case}.png")
    predicted = tmp_path / "predicted"
    # nnU-Net lists the images with twelve processes, where one shows the same
    few = "from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder as lists; "
    few += "lists.__defaults__ = (None, 1); "
    python("-c", few + code_of("nnUNetv2_predict_from_modelfolder"), "-m", tmp_path / MODEL, "-i", tmp_path / "images",
           "-o", predicted, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)  # fmt: skip

    words = ["evaluate", tmp_path / "labelsTs", predicted, "--workers", 2, "--json", tmp_path / "scores.json"]
    code = "import multiprocessing\nfrom nnunetv2_xattnres.cli import main\n"
    code += "assert multiprocessing.get_start_method() == 'spawn'\n"
    code += f"print(main(['doctor']) in (0, 1), main({list(map(str, words))!r}))"
    assert python("-c", code).splitlines()[-1] == "True 0"
    assert {row["case"] for row in json.loads((tmp_path / "scores.json").read_text())["cases"]} == {"a", "b"}
