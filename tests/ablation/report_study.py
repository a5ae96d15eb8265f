"""A small study folder as `ablate` leaves it, with pictures, scores and logs, but without any training."""

import json
from pathlib import Path

import numpy as np
from skimage import io

from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.evaluation.files import write_scores
from nnunetv2_xattnres.evaluation.scores import evaluate_folders

SHAPE = (96, 128)
# the error of each routing's predictions, in pixels
ERRORS = {"baseline": 3.0, "noskip": 7.0, "replace": 3.2, "both": 2.8, "encoder": 6.0, "decoder": 4.0}
SKIP = ("baseline", "noskip", "replace", "both")


def ellipse(centre, radii, shape=SHAPE):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2
    return (inside < 1).astype(np.uint8)


def make_study(
    root: Path,
    variants=SKIP,
    networks=("unet",),
    seeds=(0, 1),
    folds=(0,),
    cases=6,
    dataset="Dataset011_ClinicDB",
    skip=SKIP,
    studies=None,
) -> Path:
    """Write raw data and a complete study; returns the study's folder."""
    raw, folder = root / "raw" / dataset, root / "study"
    rng = np.random.default_rng(0)
    for name in ("imagesTs", "labelsTs"):
        (raw / name).mkdir(parents=True)
    shapes = []
    for index in range(cases):
        shapes.append(((rng.uniform(35, 60), rng.uniform(45, 85)), (rng.uniform(12, 26), rng.uniform(16, 34))))
        mask = ellipse(*shapes[-1])
        light = rng.uniform(0.75, 1.0, SHAPE)[..., None] * np.linspace(0.7, 1.1, SHAPE[1])[None, :, None]
        image = np.where(mask[..., None] > 0, (190, 110, 90), (150, 70, 60)) * light
        io.imsave(raw / "imagesTs" / f"polyp_{index:03d}_0000.png", image.astype(np.uint8), check_contrast=False)
        io.imsave(raw / "labelsTs" / f"polyp_{index:03d}.png", mask, check_contrast=False)
    content = {"labels": {"background": 0, "polyp": 1}, "file_ending": ".png", "numTraining": 0}
    content["channel_names"] = {str(channel): "rgb_to_0_1" for channel in range(3)}
    (raw / "dataset.json").write_text(json.dumps(content))
    cells = []
    for seed in seeds:
        for fold in folds:
            for network in networks:
                for variant in variants:
                    name = f"2d_{'' if network == 'unet' else network + '_'}{variant}"
                    study = ["skip"] if variant in (*SKIP, *skip) else []
                    study += ["position"] if variant in ("noskip", "encoder", "decoder", "replace") else []
                    study += ["init"] if variant == "both" or variant.startswith("init") else []
                    trainer = "nnUNetTrainer_EMCAD" if network == "emcad" else "nnUNetTrainer_XAttnRes"
                    study = studies or study
                    cells.append(Cell(name, variant, network, tuple(study), trainer, fold, seed))
    study = Study(folder, dataset, str(raw / "dataset.json"), "nnUNetXAttnResPlans", "nnUNetPlans", "2d", "T", cells)
    study.save()
    for cell in cells:
        finish(study, cell, shapes, raw)
    return folder


def finish(study: Study, cell: Cell, shapes, raw: Path) -> None:
    """Predictions, scores, log and state of one cell."""
    rng = np.random.default_rng([cell.seed, *f"{cell.variant} {cell.network} {cell.fold}".encode()])
    error = ERRORS.get(cell.variant, 3.5) * (0.5 if cell.network == "emcad" else 1.0)
    predictions = study.cell_folder(cell) / "predictions"
    predictions.mkdir(parents=True)
    for index, (centre, radii) in enumerate(shapes):
        moved = [value + rng.normal(0, error) for value in centre]
        grown = [max(3.0, value + rng.normal(0, error / 2)) for value in radii]
        io.imsave(predictions / f"polyp_{index:03d}.png", ellipse(moved, grown), check_contrast=False)
    write_scores(evaluate_folders(raw / "labelsTs", predictions, progress=False), study.scores_file(cell))
    write_log(study, cell, "a", range(8), error)
    study.update_state(
        cell,
        state="complete",
        commands=[
            f"XATTNRES_SEED={cell.seed} nnUNetv2_train {study.dataset} {cell.configuration} {cell.fold} "
            f"-tr {cell.trainer} -p {study.plans} -device cpu",
            f"nnUNetv2_predict -d {study.dataset} -i imagesTs -o predictions -f {cell.fold} -c {cell.configuration}",
        ],
        device="CPU",
        host="node1",
        versions={"python": "3.11.7", "nnunetv2": "2.8.1", "torch": "2.9.0"},
        started="2026-11-25T09:00:00+00:00",
        finished="2026-11-25T09:06:00+00:00",
        hours=0.1,
        error=None,
        reference=str(raw / "labelsTs"),
        predicted="imagesTs",
    )


def write_log(study: Study, cell: Cell, name: str, epochs, error: float) -> None:
    """nnU-Net's own log of a training, in the form of 2.8.1."""
    folder = study.fold_folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for epoch in epochs:
        dice = 0.95 - 0.02 * error - 0.6 * 0.6**epoch
        lines += [
            "2026-11-25 09:00:00.100000: ",
            f"2026-11-25 09:00:00.100000: Epoch {epoch}",
            "2026-11-25 09:00:00.100000: Current learning rate: 0.01",
            f"2026-11-25 09:00:10.100000: train_loss {-dice + 0.1:.4f}",
            f"2026-11-25 09:00:10.100000: val_loss {-dice:.4f}",
            f"2026-11-25 09:00:10.100000: Pseudo dice [np.float32({dice:.4f})]",
            "2026-11-25 09:00:10.100000: Epoch time: 10.0 s",
        ]
    (folder / f"training_log_2026_11_25_09_00_{name}.txt").write_text("\n".join(lines) + "\n")
