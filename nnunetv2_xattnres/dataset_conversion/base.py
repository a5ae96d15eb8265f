"""The steps of every conversion: find the files, check all of them, write all of them, print a summary."""

import argparse
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from nnunetv2_xattnres.dataset_conversion.plausible import no_background
from nnunetv2_xattnres.dataset_conversion.splits import Split
from nnunetv2_xattnres.dataset_conversion.staging import (
    bring_back,
    earlier_preprocessing,
    raw_folder,
    target_problems,
    written_whole,
)
from nnunetv2_xattnres.dataset_conversion.summary import Checked, Summary, summarise
from nnunetv2_xattnres.dataset_conversion.workers import map_cases
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import DATASET_JSON, SPLITS, TEST, TRAIN, part_folders
from nnunetv2_xattnres.system import available_cores, escape_what_the_console_lacks, expanded, told_of


@dataclass(frozen=True)
class Case:
    """One image and its mask.

    Attributes:
        name: The case's name in nnU-Net.
        image: The image as distributed.
        mask: The mask as distributed.
        sequence: Its video or patient, if known.
        part: Its part in the owner's own split (``"train"``, ``"val"``, ``"test"``), if the owner made one.
    """

    name: str
    image: Path
    mask: Path
    sequence: str | None = None
    part: str | None = None


@dataclass
class Dataset(ABC):
    """One data set and the options of its conversion. A subclass has class variables and four small methods."""

    key: ClassVar[str]
    """The word after ``convert``."""
    folder: ClassVar[str]
    """The name after ``DatasetNNN_``."""
    dataset_id: ClassVar[int]
    """The number unless ``--dataset-id`` gives another."""
    description: ClassVar[str]
    citation: ClassVar[str]
    licence: ClassVar[str]
    layout: ClassVar[str]
    """The files as their owner distributes them, for the help text and the errors."""
    expected: ClassVar[int]
    """Cases of the complete data set."""
    labels: ClassVar[dict[str, int]]
    channels: ClassVar[tuple[str, ...]]
    file_ending: ClassVar[str]
    reader: ClassVar[str]
    """nnU-Net's class that reads it."""
    max_workers: ClassVar[int] = 8
    """Threads at most: each holds one case in memory."""
    configuration: ClassVar[str] = "2d"
    """What the next command in the summary plans."""

    @abstractmethod
    def find(self, source: Path) -> tuple[list[Case], list[str]]:
        """The cases below ``source``, and the problems of its layout."""

    @abstractmethod
    def divide(self, cases: Sequence[Case]) -> Split:
        """Split into training, validation and test. Raises `InputError` if that is impossible."""

    @abstractmethod
    def check(self, case: Case) -> Checked:
        """Read the whole case and find every problem that makes it unusable."""

    @abstractmethod
    def write(self, case: Case, image: Path, mask: Path) -> None:
        """Write the case to the two paths, to which the channel (``_0000``) and the file ending must be added."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set; each has the name of a field of the class."""
        return  # without fields there are no options

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Dataset":
        """The data set with the options from the command line."""
        names = [option.name for option in fields(cls)]
        return cls(**{name: getattr(args, name) for name in names})

    def convert(
        self,
        source: str | Path,
        *,
        dataset_id: int | None = None,
        raw: str | Path | None = None,
        overwrite: bool = False,
        workers: int | None = None,
        progress: bool = True,
    ) -> Summary:
        """Check everything below ``source``, then write ``raw/DatasetNNN_NAME`` completely or not at all.

        Args:
            source: The folder of the data set as its owners distribute it.
            dataset_id: nnU-Net's number, 1 to 999; by default that of the class.
            raw: nnU-Net's raw folder; by default ``nnUNet_raw``.
            overwrite: Replace the folder if it exists.
            workers: Number of threads; by default one per core, at most ``max_workers``.
            progress: Show progress bars on a terminal.

        Raises:
            InputError: the source, the target or the options are unusable. The message lists every problem with its
                file, and nothing was written.
        """
        number = self.dataset_id if dataset_id is None else dataset_id
        if workers is not None and workers < 1:
            raise InputError(f"--workers {workers}: at least 1")
        workers = workers or min(self.max_workers, available_cores())
        if not 1 <= number <= 999:
            raise InputError(f"--dataset-id {number}: nnU-Net's numbers are 1 to 999")
        raw = raw_folder(raw)
        source = expanded(source)
        target = raw / f"Dataset{number:03d}_{self.folder}"
        restored = bring_back(raw)
        problems = target_problems(raw, target.name, overwrite)
        if source.resolve().is_relative_to(target.resolve()):
            problems.append(f"{source}: lies in {target}, the folder to write: move it, or choose another --dataset-id")
        cases, split, checked = self._check_all(source, problems, workers, progress)

        parts = {TRAIN: split.training, TEST: split.test}
        jobs = [(case, part) for part, names in parts.items() for case in _pick(cases, names)]
        with written_whole(target, overwrite=overwrite) as folder:
            for part in (TRAIN, TEST) if split.test else (TRAIN,):
                for made in part_folders(folder, part):
                    made.mkdir()

            def write_one(job: tuple[Case, str]) -> None:
                case, part = job
                images, labels = part_folders(folder, part)
                self.write(case, images / case.name, labels / case.name)

            map_cases(write_one, jobs, workers=workers, progress=progress, description="writing")
            self._write_descriptions(folder, source, cases, split)
        found = {case.name: result for case, result in zip(cases, checked, strict=True)}
        split.notes.extend([*restored, *earlier_preprocessing(target)])
        return summarise(target, split, found, self.labels, self.expected, self.configuration)

    def _check_all(
        self, source: Path, problems: list[str], workers: int, progress: bool
    ) -> tuple[list[Case], Split, list[Checked]]:
        cases: list[Case] = []
        if source.is_dir():
            cases, found = self.find(source)
            problems = problems + found
            if not cases and not found:
                problems.append(f"{source}: holds no image in this layout")
        else:
            problems.append(f"{source}: is not a folder" if source.exists() else f"{source}: there is no such folder")
        split = Split([], [], [])
        if cases:
            try:
                split = self.divide(cases)
            except InputError as error:
                problems += error.problems or [error.summary]
        results = map_cases(self.check, cases, workers=workers, progress=progress, description="checking")
        problems += [problem for result in results for problem in result.problems]
        if not problems and no_background([result.counts for result in results if result.counts]):
            problems.append(f"{source}: no mask holds any background (black): are these the masks?")
        if problems:
            raise InputError(
                f"{self.folder} was not converted and nothing was written. Expected layout: {self.layout}", problems
            )
        return cases, split, results

    def _write_descriptions(self, folder: Path, source: Path, cases: Sequence[Case], split: Split) -> None:
        # nnU-Net's generate_dataset_json writes the release under "citation", so this code writes the file
        _write_json(
            folder / DATASET_JSON,
            {
                "channel_names": {str(number): name for number, name in enumerate(self.channels)},
                "labels": self.labels,
                "numTraining": len(split.training),
                "file_ending": self.file_ending,
                "overwrite_image_reader_writer": self.reader,
                "name": self.folder,
                "description": self.description,
                "citation": self.citation,
                "licence": self.licence,
            },
        )
        if split.folds:
            _write_json(folder / SPLITS, split.folds)
        used = {*split.training, *split.test}
        _write_json(
            folder / "cases.json",  # read by `inspect`; nnU-Net ignores it
            {
                case.name: {
                    "image": case.image.relative_to(source).as_posix(),
                    "mask": case.mask.relative_to(source).as_posix(),
                    "sequence": case.sequence,
                }
                for case in cases
                if case.name in used
            },
        )


def add_common_arguments(parser: argparse.ArgumentParser, dataset: type[Dataset]) -> None:
    """Add the arguments of every conversion, then those of ``dataset``."""
    parser.description = f"{dataset.description} Expected layout: {dataset.layout} Licence: {dataset.licence}"
    parser.epilog = f"Citation: {dataset.citation}"
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder that holds the data set as distributed")
    parser.add_argument(
        "--dataset-id",
        type=int,
        default=dataset.dataset_id,
        metavar="N",
        help=f"nnU-Net's number for the data set (default: {dataset.dataset_id})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the converted data set if it exists")
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"threads (default: one per core, at most {dataset.max_workers})"
    )
    dataset.add_arguments(parser)


def run_conversion(args: argparse.Namespace, dataset: type[Dataset]) -> int:
    """Convert with the parsed arguments, and print the summary."""
    options: dict[str, Any] = {"dataset_id": args.dataset_id, "overwrite": args.overwrite, "workers": args.workers}
    # a batch system ends the job, or its terminal is closed: clean up as after Ctrl-C
    with told_of(("SIGTERM", "SIGHUP", "SIGXCPU"), _end):
        print(dataset.from_arguments(args).convert(args.source, **options))
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(dataset: type[Dataset], arguments: Sequence[str] | None = None) -> int:
    """``python -m nnunetv2_xattnres.dataset_conversion.NAME``: the same as ``convert NAME``."""
    escape_what_the_console_lacks()
    parser = argparse.ArgumentParser(prog=f"python -m nnunetv2_xattnres.dataset_conversion.{dataset.key}")
    add_common_arguments(parser, dataset)
    try:
        return run_conversion(parser.parse_args(arguments), dataset)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was kept", file=sys.stderr)
        return 130


def _pick(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    by_name = {case.name: case for case in cases}
    return [by_name[name] for name in names]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
