"""Finds cases on two sides of a split: by name, by sequence, by identical image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Side = Sequence[tuple[str, str]]
"""Cases as (``"Tr"`` or ``"Ts"``, name)."""


@dataclass(frozen=True)
class Overlap:
    """What two sides share: sorted lists of names, sequences, and pairs of cases with the same pixels."""

    names: list[str]
    sequences: list[str]
    images: list[tuple[str, str]]


def find_overlap(
    first: Side, second: Side, sequence_of: Mapping[str, str], digests: Mapping[tuple[str, str], str]
) -> Overlap:
    """Compare two sides of a split.

    Args:
        first, second: The cases of each side.
        sequence_of: Case name to sequence, if known.
        digests: Case to a hash of its pixels.
    """
    names = [{name for _, name in side} for side in (first, second)]
    sequences = [{sequence_of[name] for name in side if name in sequence_of} for side in names]
    by_digest: dict[str, list[str]] = {}
    for case in second:
        by_digest.setdefault(digests.get(case, ""), []).append(case[1])
    images = [(case[1], other) for case in first for other in by_digest.get(digests.get(case) or "unread", [])]
    return Overlap(
        sorted(names[0] & names[1]),
        sorted(sequences[0] & sequences[1], key=lambda sequence: (len(sequence), sequence)),
        sorted(images),
    )
