"""Which case trains, which validates, which is kept for the test."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from nnunetv2_xattnres.errors import InputError

Fold = dict[str, list[str]]


@dataclass(frozen=True)
class Split:
    """The roles of the cases, by name.

    Attributes:
        training: What goes to ``imagesTr``: nnU-Net plans on these and draws its folds from them.
        test: What goes to ``imagesTs``.
        folds: What ``splits_final.json`` holds: a list of ``{"train": names, "val": names}``. Empty: no such file.
        notes: What the user should know about it.
    """

    training: list[str]
    test: list[str]
    folds: list[Fold]
    notes: list[str] = field(default_factory=list)


def one_fold(train: Sequence[str], val: Sequence[str], test: Sequence[str], notes: Sequence[str] = ()) -> Split:
    """One fold that trains on ``train`` and validates on ``val``; ``test`` is kept apart."""
    fold = {"train": sorted(train), "val": sorted(val)}
    return Split(sorted([*train, *val]), sorted(test), [fold], list(notes))


def by_frame(names: Sequence[str], seed: int) -> Split:
    """8:1:1 at random over single frames.

    Frames of one video resemble each other, and here they land on both sides: scores are too good. It is what most
    papers do.

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
    """8:1:1 over whole sequences: as near to a tenth of the frames as whole sequences come, one sequence at least.

    Args:
        sequence_of: Case name to sequence.
        seed: Another seed, another split.

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
    """The names that three text files list, one a line, endings allowed; a frame that none lists is left out.

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
            lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows may begin with a mark
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read ({error})")
            continue
        entries = [line.strip() for line in lines if line.strip()]
        if not entries:
            problems.append(f"{path}: lists nothing")
        for entry in entries:
            stem = PureWindowsPath(entry).name.rsplit(".", 1)[0]  # knows both separators
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
    """``clinicdb_12`` of ``ClinicDB_012``, ``12`` of ``012``."""
    head, separator, tail = name.lower().rpartition("_")
    return f"{head}{separator}{int(tail)}" if tail.isdecimal() else name.lower()


def cross_validation(names: Sequence[str], folds: int, seed: int) -> list[Fold]:
    """``folds`` folds at random; each name validates exactly once."""
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    parts = [shuffled[number::folds] for number in range(folds)]
    return [{"train": sorted(set(names) - set(part)), "val": sorted(part)} for part in parts]
