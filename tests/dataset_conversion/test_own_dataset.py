"""The worked example of docs/datasets.md runs as it is printed there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_phantoms import mask, picture, save
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


@pytest.fixture
def script(tmp_path):
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "Kvasir" in block]
    assert len(code.splitlines()) < 100
    path = tmp_path / "kvasir.py"
    path.write_text(code)
    return path


def phantom(root):
    """JPEG images of many sizes; JPEG makes the masks noisy."""
    for number in range(10):
        size = (100 + 7 * number, 140 - 3 * number)
        save(root / "images" / f"cju{number}qk.jpg", picture(number, size))
        large = np.zeros(size, np.uint8)
        large[20:70, 15 : 60 + number] = 255
        save(root / "masks" / f"cju{number}qk.jpg", np.repeat(large[..., None], 3, axis=2))
    return root


def convert(script, source, *options):
    command = [sys.executable, str(script), str(source), *options]
    return subprocess.run(command, env={"nnUNet_raw": str(script.parent / "raw")}, capture_output=True, text=True)


def test_example_converts(script, tmp_path):
    source = phantom(tmp_path / "source")
    done = convert(script, source)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "raw" / "Dataset505_KvasirSEG"
    labels = sorted(folder.glob("labels*/*.png"))
    assert len(labels) == 10
    for path in labels:
        number = int(path.stem.removeprefix("kvasir_cju")[0])
        expected = np.zeros((100 + 7 * number, 140 - 3 * number), np.uint8)
        expected[20:70, 15 : 60 + number] = 1
        assert np.mean(np.asarray(Image.open(path)) != expected) < 0.002


def test_example_refuses_what_the_others_refuse(script, tmp_path):
    source = phantom(tmp_path / "source")
    save(source / "masks" / "cju1qk.jpg", mask(1, (10, 20)))
    (source / "masks" / "cju2qk.jpg").unlink()
    done = convert(script, source)
    assert done.returncode == 2
    assert "cju1qk.jpg: is 20x10 pixels" in done.stderr
    assert "cju2qk.jpg: has no mask" in done.stderr
    assert not (tmp_path / "raw").exists()
    assert convert(script, source, "--split", "sequence").returncode == 2
