"""Dice, IoU, HD95 and NSD of a folder of predictions, per class and case, with the means.

Example:
    >>> scores = evaluate_folders(Path("labelsTs"), Path("predictions"))  # doctest: +SKIP
    >>> scores["mean"]["dice"], scores["per_label"]["liver"]["hd95"]  # doctest: +SKIP
"""

import contextlib
import io
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.cases import Outcome, Task, run_case
from nnunetv2_xattnres.evaluation.conventions import CONVENTIONS
from nnunetv2_xattnres.evaluation.labels import Labels, find_dataset_json, read_dataset_json
from nnunetv2_xattnres.evaluation.scoring import CATALOGUE, METRICS, check_options, class_tolerances
from nnunetv2_xattnres.reading import OUT_OF_MEMORY
from nnunetv2_xattnres.system import available_cores

# below this many bytes of compressed masks, starting processes costs more than it saves
SMALL_BYTES = 8_000_000


def evaluate_folders(
    reference: Path,
    prediction: Path,
    *,
    dataset_json: Path | None = None,
    convention: str = "nnunet",
    workers: int | None = None,
    progress: bool = True,
    predicted_only: bool = False,
    metrics: Sequence[str] = METRICS,
    tolerance: Sequence[str] = (),
    missing: str = "undefined",
) -> dict[str, Any]:
    """Score every case of a folder of label images against a folder of reference masks.

    Args:
        reference: Folder of reference masks, such as ``labelsTs``.
        prediction: Folder of predicted masks with the same file names.
        dataset_json: The data set's ``dataset.json``; by default the one in or above ``reference``.
        convention: ``nnunet`` (mm, empty pairs left out) or ``transunet`` (voxels, to compare with Table 1).
        workers: Number of processes; by default one per core if the masks are large, else one.
        progress: Show a progress bar on standard error.
        predicted_only: Leave out references without a prediction, for the validation folder of one fold.
        metrics: Any of ``dice``, ``iou``, ``hd95`` and ``nsd``.
        tolerance: For ``nsd``: ``2mm``, ``2px`` or ``2`` (in the unit of distances), and ``NAME=3mm`` for one class.
        missing: HD95 of a class that only one side has: ``undefined`` (NaN), or ``worst`` (the image's diagonal).

    Returns:
        ``convention``, ``unit`` of HD95 ("mm" or "voxel"), ``labels`` {name: value or values}, ``cases`` (one row per
        case and class: case, label, dice, iou, hd95), ``per_label`` {name: means over cases, and the number of cases of
        each: ``n_dice``, ``n_iou``, ``n_hd95``}, ``mean`` (over classes) and ``notes``. Undefined scores are NaN, and
        means leave them out. What is not the default is named as well: ``metrics``, ``tolerance`` {class: in the unit
        of HD95}, ``missing``.

    Raises:
        InputError: Files are missing on one side, unreadable, have different shapes or spacings, or have labels that
            the data set does not name. The message lists all of them, and nothing is scored. Or ``nsd`` has no
            tolerance, or one that does not fit.
    """
    if convention not in CONVENTIONS:
        raise InputError(f'There is no convention "{convention}": it is one of {", ".join(CONVENTIONS)}.')
    chosen, tolerances = check_options(metrics, tolerance, missing, convention)
    for name, folder in (("reference", reference), ("prediction", prediction)):
        if not folder.is_dir():
            raise InputError(f"The {name} folder {folder} does not exist.")
    source = dataset_json or find_dataset_json(reference, prediction)
    dataset = read_dataset_json(source)
    labels = Labels.parse(dataset, str(source))
    ending = dataset["file_ending"]
    cases, problems, left_out = pair_files(reference, prediction, ending, predicted_only)
    if not cases and not problems:
        raise InputError(f"There is no file *{ending} in {reference} nor in {prediction}.")
    reader: Any = find_reader(dataset, reference / (cases[0] + ending)) if cases else None
    unit = distance_unit(reader, convention)
    amounts = class_tolerances(tolerances, unit, list(labels.foreground)) if cases else {}
    tasks = [
        Task(
            case,
            reference / (case + ending),
            prediction / (case + ending),
            reader,
            labels,
            convention,
            not problems,
            chosen,
            amounts,
            missing == "worst",
        )
        for case in cases
    ]
    try:
        outcomes = list(
            tqdm(run_cases(tasks, workers), "cases", len(tasks), disable=None if progress else True, leave=False)
        )
    except MemoryError as error:
        raise InputError(OUT_OF_MEMORY) from error
    except BrokenProcessPool as error:  # the system kills a process silently when memory runs out
        raise InputError(f"A process of evaluate was killed, most likely {OUT_OF_MEMORY}") from error
    problems += [problem for outcome in outcomes for problem in outcome.problems]
    if problems:
        raise InputError(f"{prediction} cannot be scored against {reference}: nothing was written.", problems)
    notes = [note for outcome in outcomes for note in outcome.notes]
    if left_out:
        notes.append(f"{left_out} of {left_out + len(cases)} references have no prediction and were left out")
    rows = [row for outcome in outcomes for row in outcome.rows]
    return {
        "convention": convention,
        "unit": unit,
        **({"metrics": list(chosen)} if chosen != METRICS else {}),
        **({"tolerance": amounts} if amounts else {}),
        **({"missing": missing} if missing != "undefined" else {}),
        "labels": labels.to_json(),
        "cases": rows,
        **summarise(rows, list(labels.foreground), notes, chosen),
        "notes": notes,
    }


def distance_unit(reader: type | None, convention: str) -> str:
    """The unit of distances, "mm" or "voxel"; nnU-Net's reader class for natural images knows no spacing."""
    natural = reader is not None and reader.__name__ == "NaturalImage2DIO"  # png has no spacing: 1 pixel
    return "voxel" if natural or CONVENTIONS[convention].in_voxels else "mm"


def pair_files(
    reference: Path, prediction: Path, ending: str, predicted_only: bool
) -> tuple[list[str], list[str], int]:
    """Case names on both sides, a line per file without a partner, and the number of references left out on request.

    Hidden files, such as macOS's ``._NAME``, are no cases.
    """
    there, here = (
        {
            path.name[: -len(ending)]
            for path in folder.iterdir()
            if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
        }
        for folder in (reference, prediction)
    )
    problems = [f"{case}{ending} has no reference" for case in sorted(here - there)]
    if predicted_only:
        return sorted(there & here), problems, len(there - here)
    return sorted(there & here), problems + [f"{case}{ending} has no prediction" for case in sorted(there - here)], 0


def find_reader(dataset: dict[str, Any], example: Path) -> type:
    """nnU-Net's reader class for the data set; it tries one file where several classes read the same ending."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    silence = io.StringIO()  # nnU-Net prints a traceback for every class that it tries in vain
    with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence):
        try:
            return determine_reader_writer_from_dataset_json(dataset, str(example), verbose=False)
        except Exception:  # nnU-Net raises RuntimeError, and other errors for a reader that dataset.json names
            pass
    try:  # the example is broken: the class for the ending will say so, with every other broken file
        return determine_reader_writer_from_dataset_json(dataset, verbose=False)
    except Exception as error:
        named = dataset.get("overwrite_image_reader_writer")
        what = f"by the name {named!r}" if named else f'for files that end in "{dataset["file_ending"]}"'
        raise InputError(f"nnU-Net has no reader {what}: correct dataset.json.") from error


def run_cases(tasks: list[Task], workers: int | None) -> Iterator[Outcome]:
    """The outcomes in order, computed in several processes if requested or if the masks are large."""
    if workers is None:
        size = sum(path.stat().st_size for task in tasks for path in (task.reference, task.prediction))
        workers = 1 if size < SMALL_BYTES else available_cores()
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(run_case, tasks)
        return
    # "spawn", because a forked copy of a process that has used torch's threads can hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_case, tasks)


def mean(values: list[float]) -> float:
    """Mean of the defined values, NaN if none is defined."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else float("nan")


def summarise(
    rows: list[dict[str, Any]], labels: list[str], notes: list[str], metrics: tuple[str, ...] = METRICS
) -> dict[str, Any]:
    """Mean over cases for each class, then over classes; classes without any score are noted and left out."""
    per_label: dict[str, dict[str, float]] = {}
    for label in labels:
        columns = {metric: [row[metric] for row in rows if row["label"] == label] for metric in metrics}
        counts = {f"n_{metric}": sum(not math.isnan(value) for value in columns[metric]) for metric in metrics}
        per_label[label] = {**{metric: mean(values) for metric, values in columns.items()}, **counts}
        shares = [counts[f"n_{metric}"] for metric in metrics if not CATALOGUE[metric].distance]
        if shares and not any(shares):
            notes.append(f'class "{label}" occurs in no case and is left out of the mean')
        elif counts.get("n_hd95") == 0:
            notes.append(f'class "{label}" is never on both sides: it has no HD95 and is left out of that mean')
    overall = {metric: mean([values[metric] for values in per_label.values()]) for metric in metrics}
    return {"per_label": per_label, "mean": overall}
