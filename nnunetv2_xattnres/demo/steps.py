"""The demo, step by step: draw, plan and preprocess, train, predict, score, and show."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_xattnres.demo.phantom import DATASET, write_dataset
from nnunetv2_xattnres.demo.workspace import Workspace
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER
from nnunetv2_xattnres.nnunet_layout import TEST_IMAGES, TEST_LABELS
from nnunetv2_xattnres.system import check_device

STEPS = 5
FRAMES_SHOWN = 4


@dataclass(frozen=True)
class Settings:
    """The size of the demo.

    Attributes:
        training: Number of frames for training and validation; nnU-Net's batch is 5 % of them.
        test: Number of frames that are predicted and scored.
        size: Height and width of a frame in pixels.
        trainer: Trainer for ``nnUNetv2_train -tr``.
        device: ``cpu``, ``cuda`` or ``mps``.
    """

    training: int = 80
    test: int = 16
    size: int = 64
    trainer: str = "nnUNetTrainer_XAttnRes_Demo"
    device: str = "cpu"


@dataclass(frozen=True)
class Result:
    """The result of the demo: mean Dice over the test frames, the model's folder, the picture."""

    dice: float
    untrained_dice: float
    model: Path
    picture: Path


def run_demo(output: Path, settings: Settings | None = None, *, overwrite: bool = False) -> Result:
    """Run every step in ``output`` and print the result.

    Raises:
        InputError: the device cannot be used, ``output`` exists (nothing is written then), or a command fails.
    """
    from nnunetv2_xattnres.demo.picture import draw_picture
    from nnunetv2_xattnres.demo.untrained import predict_untrained

    settings = settings or Settings()
    check_device(settings.device)
    started = time.monotonic()
    workspace = Workspace.create(output, overwrite=overwrite)
    print(f"Everything goes to {workspace.root}\n")

    with _step(1, f"Draw {settings.training} frames for training and {settings.test} for the test"):
        dataset = write_dataset(workspace.raw, training=settings.training, test=settings.test, size=settings.size)
    with _step(2, "Plan and preprocess"):
        workspace.run("nnUNetv2_plan_and_preprocess", "-d", 1, "-c", "2d", "-npfp", 1, "-np", 1)
    choice = ("-tr", settings.trainer)
    with _step(3, "Train (fold 0; the hook nnUNet_extTrainer is set for this command alone)"):
        workspace.run("nnUNetv2_train", 1, "2d", 0, *choice, "-device", settings.device, hook=True, show=True)
    predictions = workspace.root / "predictions"
    with _step(4, "Predict the test frames (no hook)"):
        workspace.run(
            *("nnUNetv2_predict", "-i", dataset / TEST_IMAGES, "-o", predictions, "-d", 1, "-c", "2d", "-f", 0),
            *(*choice, "-device", settings.device, "-npp", 0, "-nps", 0),  # in one process: the frames are few
        )
    model = workspace.results / DATASET / f"{settings.trainer}__nnUNetPlans__2d"
    untrained = workspace.root / "predictions_untrained"
    picture = workspace.root / "demo.png"
    with _step(5, "Score, and compare with the same network before training"):
        predict_untrained(model, dataset / TEST_IMAGES, untrained, device=settings.device)
        dice = _dice(dataset / TEST_LABELS, predictions)
        untrained_dice = _dice(dataset / TEST_LABELS, untrained)
        draw_picture(picture, dataset / TEST_IMAGES, dataset / TEST_LABELS, predictions, _spread(dice, FRAMES_SHOWN))

    result = Result(_mean(dice), _mean(untrained_dice), model, picture)
    _report(result, workspace, seconds=time.monotonic() - started, frames=settings.test)
    return result


@contextmanager
def _step(number: int, title: str) -> Iterator[None]:
    """Print the title of a step, and how long the step took."""
    print(f"[{number}/{STEPS}] {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"    done in {time.monotonic() - started:.0f} s\n", flush=True)


def _dice(references: Path, predictions: Path) -> dict[str, float]:
    """Dice of every case."""
    from nnunetv2_xattnres.evaluation.scores import evaluate_folders

    scores = evaluate_folders(references, predictions, workers=1, progress=False)
    return {case["case"]: case["dice"] for case in scores["cases"]}


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _spread(values: dict[str, float], count: int) -> dict[str, float]:
    """``count`` entries from the lowest value to the highest, evenly spaced by rank."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    last = len(ordered) - 1
    ranks = sorted({round(index * last / max(1, count - 1)) for index in range(count)})
    return dict(ordered[rank] for rank in ranks)


def _report(result: Result, workspace: Workspace, *, seconds: float, frames: int) -> None:
    """Print the result, and how to continue."""
    print(f"Dice on {frames} test frames   {result.dice:.3f}   (before training: {result.untrained_dice:.3f})")
    print(f"Model     {result.model}")
    print(f"Picture   {result.picture}   (worst to best test frame)")
    print(f"Time      {seconds / 60:.1f} minutes\n")
    print("To continue with this data set and this model in nnU-Net's own commands, type:")
    for name, folder in workspace.folders.items():
        print(f'  export {name}="{folder}"')
    print(f'  export nnUNet_extTrainer="{HOOK_FOLDER}"')
