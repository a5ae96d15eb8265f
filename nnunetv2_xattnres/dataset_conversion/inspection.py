"""``nnunetv2_xattnres inspect N``: prints content and problems of a raw data set, and draws its cases."""

import argparse
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_xattnres.dataset_conversion.label_rules import problems_of_labels
from nnunetv2_xattnres.dataset_conversion.overlap import find_overlap
from nnunetv2_xattnres.dataset_conversion.patch_view import planned_views
from nnunetv2_xattnres.dataset_conversion.plausible import border_note, missing_classes, no_background
from nnunetv2_xattnres.dataset_conversion.raw_dataset import RawCase, RawDataset, Reading
from nnunetv2_xattnres.dataset_conversion.summary import describe_sizes
from nnunetv2_xattnres.dataset_conversion.workers import map_cases
from nnunetv2_xattnres.errors import InputError, few, folded
from nnunetv2_xattnres.nnunet_layout import DATASET_JSON, IGNORE, PREPROCESSED, SPLITS, TRAIN_IMAGES, TRAIN_LABELS
from nnunetv2_xattnres.outputs import check_outputs, written
from nnunetv2_xattnres.system import available_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``inspect``."""
    parser.description = (
        "Read every case of a data set in nnUNet_raw with nnU-Net's own reader. Print cases, sizes, spacings, class "
        "frequencies, splits, and what training, validation and test share. Draw random cases with their masks "
        "outlined. The exit code is 1 if something is wrong."
    )
    parser.add_argument("dataset", metavar="DATASET", help="number or name of the data set, such as 501")
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="picture to write (default: DatasetNNN_NAME_cases.png)"
    )
    parser.add_argument("--cases", type=int, default=12, metavar="N", help="cases to draw; 0: no picture (default: 12)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of cases (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture if it exists")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core, at most 4)")


def run(args: argparse.Namespace) -> int:
    """Print the report and write the picture; returns 1 if something is wrong."""
    dataset = RawDataset.open(args.dataset)
    sheet = args.sheet or Path(f"{dataset.folder.name}_cases.png")
    if args.cases > 0:
        if sheet.suffix.lower() != ".png":
            raise InputError(f"--sheet {sheet}: the picture is a PNG, give it the ending .png")
        check_outputs([sheet], overwrite=args.overwrite, advice=", --sheet PNG names another, --cases 0 draws none")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least 1")
    lines, problems = inspect_dataset(dataset, workers=args.workers)
    print("\n".join(lines))
    if args.cases > 0:
        drawn = draw_cases(dataset, sheet, count=args.cases, seed=args.seed)
        print(f"picture\n  {sheet if drawn else 'none: no case can be read'}")
    if problems:
        print("wrong\n" + "\n".join(f"  - {line}" for line in folded(problems)))
    else:
        print("nothing is wrong")
    return 1 if problems else 0


def inspect_dataset(
    dataset: RawDataset, *, workers: int | None = None, progress: bool = True
) -> tuple[list[str], list[str]]:
    """The lines of the report, and a line with its file per problem.

    Sequences on two sides are reported but are no problem, because the usual splits by frame have them.
    """
    cases = [*dataset.cases("Tr"), *dataset.cases("Ts")]
    workers = workers or min(4, available_cores())
    readings = map_cases(dataset.examine, cases, workers=workers, progress=progress, description="reading")
    problems = [*dataset.hidden_files(), *dataset.unused_files()]
    problems += [problem for reading in readings for problem in reading.problems]
    training = [case.name for case in cases if case.part == "Tr"]
    test = [case.name for case in cases if case.part == "Ts"]
    if not training:
        problems.append(f"{dataset.folder / TRAIN_IMAGES}: holds no case")
    problems += [f"{dataset.folder / DATASET_JSON}: {text}" for text in _wrong_description(dataset, len(training))]
    digests = {(case.part, case.name): reading.digest for case, reading in zip(cases, readings, strict=True)}
    split_lines, split_problems = _describe_splits(dataset, training, test, digests)
    counts = [reading.counts for reading in readings if reading.counts]
    problems += _implausible_labels(dataset, counts)
    notes = [note for reading in readings for note in reading.notes]
    preprocessed = os.environ.get(PREPROCESSED)
    if preprocessed:
        notes += [text for text, _ in planned_views(Path(preprocessed) / dataset.folder.name)]
    if odd := border_note([reading.border for reading in readings if reading.counts]):
        notes.append(odd)
    lines = [
        f"{dataset.folder}",
        f"  {dataset.description.get('description', '')}".rstrip(),
        *_describe_cases(readings, len(training), len(test)),
        *_describe_classes(dataset, readings),
        *split_lines,
        *(["notes", *(f"  - {note}" for note in folded(notes))] if notes else []),
    ]
    return [line for line in lines if line], problems + split_problems


def draw_cases(dataset: RawDataset, path: Path, *, count: int = 12, seed: int = 0) -> int:
    """Write the contact sheet of ``count`` random readable cases with outlined labels; returns how many were drawn."""
    from nnunetv2_xattnres.visualization.contact_sheet import draw_contact_sheet, make_tile

    cases: list[RawCase] = [*dataset.cases("Tr"), *dataset.cases("Ts")]
    random.Random(seed).shuffle(cases)
    folds, _ = dataset.splits()
    validation = set(folds[0]["val"]) if folds else set()
    ct = str(next(iter(dataset.description["channel_names"].values()))).lower() == "ct"
    tiles: list[Any] = []
    for case in cases:
        if len(tiles) == count:
            break
        try:
            image, properties, label, _ = dataset.read(case)
        except Exception:  # reported by `inspect_dataset`
            continue
        if label is not None and label.shape != image.shape[1:]:
            continue
        role = "test" if case.part == "Ts" else "validation" if case.name in validation else "train"
        direction = properties.get("sitk_stuff", {}).get("direction", ())
        title = f"{case.name}  ({role})"
        tiles.append(make_tile(title, image, label, properties["spacing"], ct=ct, direction=direction))
    if not tiles:
        return 0
    with written(path) as partial:
        title = f"{dataset.folder.name}: {len(tiles)} of {len(cases)} cases"
        draw_contact_sheet(partial, tiles, dataset.label_names, title)
    return len(tiles)


def _wrong_description(dataset: RawDataset, training: int) -> list[str]:
    """What nnU-Net's integrity check refuses in ``dataset.json``."""
    description = dataset.description
    problems = problems_of_labels(description["labels"], description.get("regions_class_order"))
    if "numTraining" not in description:
        problems.append(f"has no numTraining: imagesTr holds {training}")
    elif description["numTraining"] != training:
        problems.append(f"numTraining is {description['numTraining']}, imagesTr holds {training}")
    return problems


def _implausible_labels(dataset: RawDataset, counts: Sequence[Mapping[int, int]]) -> list[str]:
    """Problems of the labels of all cases together, even if each label is right by itself."""
    labels = dataset.folder / TRAIN_LABELS
    ignored = {value for value, name in dataset.label_names.items() if name == IGNORE}
    missing = missing_classes(counts, [value for value in dataset.label_names if value not in ignored])
    if counts and not any(set(count) - {0} for count in counts):
        return [f"{labels}: no case holds anything but background (0)"]
    problems = [
        f"{labels}: class {value} ({dataset.label_names[value]}) occurs in 0 of {len(counts)} cases: another order of "
        "labels, or a class to take out of dataset.json"
        for value in missing
    ]
    if no_background(counts):
        problems.append(f"{labels}: background (0) occurs in 0 of {len(counts)} cases: the masks have no background")
    return problems


def _describe_cases(readings: Sequence[Reading], training: int, test: int) -> list[str]:
    flat = all(reading.size[:1] == (1,) for reading in readings if reading.size)
    sizes = Counter(reading.size[flat:] for reading in readings if reading.size)
    lines = ["cases", f"  imagesTr {training}, imagesTs {test}"]
    if sizes:
        lines.append(f"  size     {describe_sizes(sizes)} ({'y x' if flat else 'z y x'})")
        spacings = np.array([reading.spacing[flat:] for reading in readings if reading.spacing])
        low, middle, high = spacings.min(axis=0), np.median(spacings, axis=0), spacings.max(axis=0)
        same = np.allclose(low, high)
        shown = [" ".join(f"{value:g}" for value in np.round(row, 4)) for row in (low, middle, high)]
        lines.append(f"  spacing  {shown[0] if same else f'median {shown[1]}, from {shown[0]} to {shown[2]}'}")
    return lines


def _describe_classes(dataset: RawDataset, readings: Sequence[Reading]) -> list[str]:
    labelled = [reading.counts for reading in readings if reading.counts]
    total = sum(sum(counts.values()) for counts in labelled)
    width = max([4, *map(len, dataset.label_names.values())])  # the heading needs four
    spread = "within these cases: smallest, median, largest share"
    lines = [f"classes  {'':<{width - 4}}    share  cases          {spread}"]
    for value, name in dataset.label_names.items():
        shares = [counts[value] / sum(counts.values()) for counts in labelled if counts.get(value)]
        overall = sum(counts.get(value, 0) for counts in labelled) / max(1, total)
        extent = f"{min(shares):.2%}  {np.median(shares):.2%}  {max(shares):.2%}" if shares else "-"
        cases = f"{len(shares)} of {len(labelled)}"
        lines.append(f"  {value:<2} {name:<{width}}  {overall:7.2%}  {cases:<13}  {extent}")
    return lines


def _describe_splits(
    dataset: RawDataset, training: Sequence[str], test: Sequence[str], digests: Mapping[tuple[str, str], str]
) -> tuple[list[str], list[str]]:
    folds, problems = dataset.splits()
    lines = ["splits"]
    if not folds:
        lines.append("  no splits_final.json: nnU-Net makes 5 random folds of its own, where there are 5 cases")
    source = dataset.folder / SPLITS
    pairs: list[tuple[str, tuple[str, list[str]], tuple[str, list[str]]]] = []
    for number, fold in enumerate(folds):
        lines.append(f"  fold {number}  {len(fold['train'])} train, {len(fold['val'])} validate")
        unknown = sorted({*fold["train"], *fold["val"]} - set(training))
        problems += [f"{source}: fold {number} names {name}, which is not in imagesTr" for name in unknown]
        pairs.append((f"fold {number}", ("train", fold["train"]), ("validation", fold["val"])))
    if len(folds) == 1:  # with more folds, every case is a training case in one of them
        pairs += [("fold 0", side, ("test", list(test))) for side in pairs[0][1:]]
    else:
        pairs.append(("all", (TRAIN_IMAGES, list(training)), ("test", list(test))))
    left = sorted(set(training) - {name for fold in folds for name in [*fold["train"], *fold["val"]]})
    if folds and left:
        lines.append(f"  {len(left)} cases of imagesTr are in no fold: {few(left)}")

    lines.append(f"overlap {'':<22}  names  sequences  identical images")
    for title, (first, firsts), (second, seconds) in pairs:
        overlap = find_overlap(
            [("Tr", name) for name in firsts],
            [("Ts" if second == "test" else "Tr", name) for name in seconds],
            dataset.sequences,
            digests,
        )
        sides = f"{first} and {second}"
        sequences = str(len(overlap.sequences)) if dataset.sequences else "unknown"
        shared = f"   (sequences {few(overlap.sequences)})" if overlap.sequences else ""
        lines.append(
            f"  {title:<6}  {sides:<20}  {len(overlap.names):>5}  {sequences:>9}  {len(overlap.images):>16}{shared}"
        )
        if overlap.names:
            problems.append(f"{title}: {sides} share {len(overlap.names)} cases: {few(overlap.names)}")
        others = [f"{one} = {other}" for one, other in overlap.images if one != other]
        if others:
            problems.append(f"{title}: {sides} share {len(others)} images under two names: {few(others)}")
    return lines, problems
