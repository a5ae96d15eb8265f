"""Splits cases into training, validation and test."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from nnunetv2_xattnres.errors import InputError

Fold = dict[str, list[str]]


@dataclass(frozen=True)
class Split:
    """The names of the cases for each purpose.

    Attributes:
        training: Cases for ``imagesTr``, on which nnU-Net plans and from which it draws its folds.
        test: Cases for ``imagesTs``.
        folds: Content of ``splits_final.json``: a list of ``{"train": names, "val": names}``; empty for no such file.
        notes: Notes for the user about the split.
    """

    training: list[str]
    test: list[str]
    folds: list[Fold]
    notes: list[str] = field(default_factory=list)


def one_fold(train: Sequence[str], val: Sequence[str], test: Sequence[str], notes: Sequence[str] = ()) -> Split:
    """One fold that trains on ``train`` and validates on ``val``; ``test`` is the test set."""
    fold = {"train": sorted(train), "val": sorted(val)}
    return Split(sorted([*train, *val]), sorted(test), [fold], list(notes))


def by_frame(names: Sequence[str], seed: int) -> Split:
    """Split single frames at random, 8:1:1.

    Frames of one video are similar and end up on both sides, so the scores are too good. Most papers split this way.

    Raises:
        InputError: fewer than 3 frames.
    """
    if len(names) < 3:
        raise InputError(f"8:1:1 needs at least 3 frames, there are {len(names)}")
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    tenth = max(1, round(len(names) / 10))
    return one_fold(shuffled[2 * tenth :], shuffled[tenth : 2 * tenth], shuffled[:tenth])


def by_sequence(sequence_of: Mapping[str, str], seed: int) -> Split:
    """Split whole sequences at random, as close to 8:1:1 frames as possible, with at least one sequence per part.

    Args:
        sequence_of: Case name to sequence.
        seed: Seed of the random split.

    Raises:
        InputError: fewer than 3 sequences.
    """
    frames: dict[str, list[str]] = {}
    for name, sequence in sorted(sequence_of.items()):
        frames.setdefault(sequence, []).append(name)
    if len(frames) < 3:
        raise InputError(
            f"--split sequence needs at least 3 sequences, there are {len(frames)} in these {len(sequence_of)} frames; "
            "--split frame splits single frames"
        )
    order = sorted(frames)
    random.Random(seed).shuffle(order)
    tenth = len(sequence_of) / 10
    parts: list[list[str]] = []
    for remaining_parts in (2, 1):
        chosen = list(frames[order.pop()])
        while len(order) > remaining_parts and abs(len(chosen) + len(frames[order[-1]]) - tenth) < tenth - len(chosen):
            chosen += frames[order.pop()]
        parts.append(chosen)
    test, val = parts
    return one_fold([name for sequence in order for name in frames[sequence]], val, test)


def by_file(names: Sequence[str], train: Path, val: Path, test: Path | None) -> Split:
    """Split as three text files say, with one name per line and optional endings; frames in no list are left out.

    Raises:
        InputError: a list is missing or empty, a name is unknown or in two lists.
    """
    known = {_without_zeros(name): name for name in names}
    known |= {key.rpartition("_")[2]: name for key, name in known.items() if key.rpartition("_")[2].isdecimal()}
    problems: list[str] = []
    chosen: dict[str, Path] = {}
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for part, path in (("train", train), ("val", val), ("test", test)):
        if path is None:
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows may write a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read ({error})")
            continue
        entries = [line.strip() for line in lines if line.strip()]
        if not entries:
            problems.append(f"{path}: lists nothing")
        for entry in entries:
            stem = PureWindowsPath(entry).name.rsplit(".", 1)[0]  # accepts both separators
            name = known.get(_without_zeros(stem))
            if name is None:
                problems.append(f"{path}: {entry} is none of the frames")
            elif name in chosen:
                problems.append(f"{path}: {entry} is listed already, in {chosen[name]}")
            else:
                chosen[name] = path
                parts[part].append(name)
    if problems:
        raise InputError("the lists of names do not fit the frames", problems)
    left_out = len(names) - len(chosen)
    notes = [f"{left_out} frames are in none of the lists and were left out"] if left_out else []
    return one_fold(parts["train"], parts["val"], parts["test"], notes)


def _without_zeros(name: str) -> str:
    """``clinicdb_12`` for ``ClinicDB_012``, ``12`` for ``012``."""
    head, separator, tail = name.lower().rpartition("_")
    return f"{head}{separator}{int(tail)}" if tail.isdecimal() else name.lower()


def cross_validation(names: Sequence[str], folds: int, seed: int) -> list[Fold]:
    """``folds`` random folds; each name is in the validation of exactly one."""
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    parts = [shuffled[number::folds] for number in range(folds)]
    return [{"train": sorted(set(names) - set(part)), "val": sorted(part)} for part in parts]
