"""Draws phantom colonoscopy frames with one or two "polyps" each, so that a demo needs no real data.

Colour alone does not identify a polyp: it is slightly redder or paler than the mucosa around it, which itself varies,
and highlights, folds, vessels and the dark lumen distract. Only the shape of its shading identifies it.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

DATASET = "Dataset001_PhantomPolyps"
CHANNELS = {str(channel): "rgb_to_0_1" for channel in range(3)}  # with this name, nnU-Net scales 0..255 to 0..1
MUCOSA = np.array([0.74, 0.45, 0.37])


def draw_frame(generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one frame.

    Returns:
        The image, uint8 ``[size, size, 3]``, and its mask, uint8 ``[size, size]``, 1 where a polyp is.
    """
    texture = _noise(generator, size, size / 6) * 0.09 + _noise(generator, size, size / 40) * 0.04
    lighting, lumen = _lighting(generator, size)
    light = 1 + texture + lighting
    tint = MUCOSA * (1 + generator.normal(0, 0.06, 3))
    redness = _noise(generator, size, size / 8) * 0.05 + _vessels(generator, size)

    mask = np.zeros((size, size), dtype=bool)
    for _ in range(generator.integers(1, 3)):
        height, area = _polyp(generator, size, forbidden=mask | lumen)
        mask |= area
        angle = generator.uniform(0, 2 * np.pi)
        slope_y, slope_x = np.gradient(gaussian_filter(height, size / 64))
        shading = (slope_y * np.sin(angle) + slope_x * np.cos(angle)) * size / 10
        light = light * (1 + 0.35 * np.clip(shading, -1.2, 1.2) + 0.25 * height)
        redness = redness + height * generator.choice([-1, 1]) * generator.uniform(0.05, 0.12)

    image = tint * light[..., None] * (1 + redness[..., None] * np.array([0.2, -1.0, -1.0]))
    image = np.maximum(image, _highlights(generator, size)[..., None])
    image = gaussian_filter(image, (0.6, 0.6, 0)) + generator.normal(0, 0.015, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), mask.astype(np.uint8)


def write_dataset(raw: Path, *, training: int, test: int, size: int, seed: int = 0) -> Path:
    """Write a complete data set in nnU-Net raw format below ``raw``, with masks of the test frames (``labelsTs``).

    The same arguments give the same files.
    """
    folder = raw / DATASET
    counts = {"Tr": training, "Ts": test}
    with tqdm(total=training + test, unit="frame", leave=False, disable=None) as progress:
        for subset, (split, count) in enumerate(counts.items()):
            images, labels = folder / f"images{split}", folder / f"labels{split}"
            images.mkdir(parents=True)
            labels.mkdir()
            for index in range(count):
                image, mask = draw_frame(np.random.default_rng([seed, subset, index]), size)
                name = f"frame_{index:03d}"
                Image.fromarray(image).save(images / f"{name}_0000.png")
                Image.fromarray(mask).save(labels / f"{name}.png")
                progress.update()
    description = {
        "channel_names": CHANNELS,
        "labels": {"background": 0, "polyp": 1},
        "numTraining": training,
        "file_ending": ".png",
        "description": "drawn frames for `nnunetv2_xattnres demo`; nothing in them is real",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column coordinates from 0 to 1."""
    rows, columns = np.mgrid[:size, :size] / (size - 1)
    return rows, columns


def _noise(generator: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Smooth noise of unit standard deviation; ``sigma`` is the size of its spots in pixels."""
    noise = gaussian_filter(generator.normal(size=(size, size)), sigma, mode="wrap")
    return noise / noise.std()


def _lighting(generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of lamp, lumen and folds, which are no polyps, and the place of the lumen."""
    rows, columns = _grid(size)
    lamp = generator.uniform(0.3, 0.7, 2)
    light = -0.5 * ((rows - lamp[0]) ** 2 + (columns - lamp[1]) ** 2)
    lumen, width = generator.uniform(0, 1, 2), generator.uniform(0.12, 0.22)
    distance = np.hypot(rows - lumen[0], columns - lumen[1])
    light -= 0.65 / (1 + np.exp((distance - width) / 0.03))
    for _ in range(generator.integers(2, 5)):  # folds: arcs around the lumen, bright on one side and dark on the other
        radius, thickness = generator.uniform(width + 0.05, 1.0), generator.uniform(0.02, 0.05)
        offset = (distance - radius + 0.03 * _noise(generator, size, size / 6)) / thickness
        light -= generator.uniform(0.15, 0.35) * offset * np.exp(-(offset**2))
    return light, distance < width


def _vessels(generator: np.random.Generator, size: int) -> np.ndarray:
    """Thin reddish lines, where smooth noise crosses zero."""
    return 0.12 * np.exp(-((_noise(generator, size, size / 7) / 0.06) ** 2)) * (_noise(generator, size, size / 8) > 0.3)


def _highlights(generator: np.random.Generator, size: int) -> np.ndarray:
    """Specular highlights: small white spots anywhere, on polyps or beside them."""
    rows, columns = _grid(size)
    spots = np.zeros((size, size))
    for _ in range(generator.integers(2, 9)):
        centre, radii = generator.uniform(0, 1, 2), generator.uniform(0.008, 0.03, 2)
        spots += np.exp(-(((rows - centre[0]) / radii[0]) ** 2) - ((columns - centre[1]) / radii[1]) ** 2)
    return np.clip(1.4 * spots, 0, 1)


def _polyp(generator: np.random.Generator, size: int, forbidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A dome (height 0 to 1) with a wavy outline, and the area that it covers, outside ``forbidden``."""
    rows, columns = _grid(size)
    for _ in range(50):
        centre, radius = generator.uniform(0.15, 0.85, 2), generator.uniform(0.08, 0.2)
        stretch, turn = generator.uniform(0.7, 1.4), generator.uniform(0, np.pi)
        y, x = rows - centre[0], columns - centre[1]
        y, x = (y * np.cos(turn) - x * np.sin(turn)) * stretch, y * np.sin(turn) + x * np.cos(turn)
        angle = np.arctan2(y, x)
        outline = radius * (
            1
            + sum(
                generator.normal(0, 0.06) * np.cos(wave * angle + generator.uniform(0, 2 * np.pi)) for wave in (2, 3, 5)
            )
        )
        distance = np.hypot(y, x) / outline
        area = distance < 1
        if not (area & forbidden).any():
            return np.sqrt(np.clip(1 - distance**2, 0, None)), area
    return np.zeros((size, size)), np.zeros((size, size), dtype=bool)
