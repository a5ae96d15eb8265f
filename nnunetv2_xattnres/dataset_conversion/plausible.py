"""Finds implausible data sets: inverted masks, masks without background, classes that never occur."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def border_share(label: NDArray) -> float:
    """Share of foreground (not 0) among the outermost pixels of an image, or the outer faces of a volume.

    Axes of length 1 and 2 consist only of border and are ignored. Returns 0 if no axis is left.
    """
    axes = [axis for axis, length in enumerate(label.shape) if length > 2]
    faces = [np.take(label, (0, -1), axis=axis) for axis in axes]
    size = sum(face.size for face in faces)
    return sum(np.count_nonzero(face) for face in faces) / size if size else 0.0


def no_background(counts: Sequence[Mapping[int, int]]) -> bool:
    """Whether labels exist and none of them has background (0). ``counts`` has voxels per value for each case."""
    return bool(counts) and not any(count.get(0) for count in counts)


def missing_classes(counts: Sequence[Mapping[int, int]], values: Sequence[int]) -> list[int]:
    """The foreground values that occur in no case."""
    return [value for value in values if value and not any(count.get(value) for count in counts)] if counts else []


def border_note(shares: Sequence[float]) -> str:
    """A note if foreground covers most of the border in most cases, as in inverted masks; otherwise empty."""
    covered = sum(share > 0.5 for share in shares)
    if covered <= len(shares) / 2:
        return ""
    return (
        f"foreground covers most of the border in {covered} of {len(shares)} cases: are the masks inverted "
        "(structure black on white)? Look at the picture of `inspect`"
    )
