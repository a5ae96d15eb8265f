"""Computes how much of an image a training patch sees: a small share is a common cause of poor scores."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import read_object

SMALL_SHARE = 0.25
USUAL_PATCH = (512, 512)
"""About what nnU-Net plans in 2D for its default memory target; the plans say it exactly."""
RESIZED = "--size 352 352"
"""The paper's size for 2D images."""


def seen_share(patch: Sequence[int], image: Sequence[float]) -> float:
    """Share of an image that a patch covers, at most 1; both are pixels or voxels per axis."""
    return math.prod(min(1.0, length / max(1.0, whole)) for length, whole in zip(patch, image, strict=True))


def expected_view(sizes: Sequence[tuple[int, ...]], number: int) -> str:
    """One line for 2D images that are not planned yet; empty if a usual patch sees enough of the median image."""
    if not sizes or any(len(size) != 2 for size in sizes):
        return ""
    median = [sorted(size[axis] for size in sizes)[len(sizes) // 2] for axis in (0, 1)]
    share = seen_share(USUAL_PATCH, median)
    if share >= SMALL_SHARE:
        return ""
    return (
        f"a patch of {_shown(USUAL_PATCH)} pixels, as nnU-Net plans it, sees {share:.1%} of the median image "
        f"({_shown(median)}): convert again with {RESIZED} --overwrite --dataset-id {number}"
    )


def planned_views(preprocessed: Path) -> Iterator[tuple[str, bool]]:
    """A line per 2D configuration in the plans of a data set, and whether its patch sees too little.

    Args:
        preprocessed: The data set's folder in ``nnUNet_preprocessed``. Plans that cannot be read are skipped.
    """
    for path in sorted(preprocessed.glob("*Plans*.json")):
        try:
            configurations = (read_object(path) or {})["configurations"]
            own = {name: each for name, each in configurations.items() if len(each.get("patch_size", ())) == 2}
            views = [(name, each["patch_size"], each["median_image_size_in_voxels"][-2:]) for name, each in own.items()]
            shares = [(name, patch, median, seen_share(patch, median)) for name, patch, median in views]
        except (InputError, ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, patch, median, share in shares:
            text = (
                f"{path.stem}, {name}: a patch of {_shown(patch)} pixels sees {share:.1%} of the median image "
                f"({_shown(median)})"
            )
            small = share < SMALL_SHARE
            yield (
                text + (f": convert smaller images (convert NAME SOURCE {RESIZED} --overwrite)" if small else ""),
                small,
            )


def _shown(size: Sequence[float]) -> str:
    return "x".join(f"{length:g}" for length in size)
