"""Checks by anatomy whether a label volume uses BTCV's code: by sizes of organs and by their sides of the body.

Labels of other projects use the same numbers for other organs (TransUNet's 8, AMOS, FLARE), so a conversion made for
BTCV would swap their organs without an error. These rules have a wide margin, so that a diseased organ is not refused.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

ORGANS = (
    *("background", "spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach"),
    *("aorta", "inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland"),
    "left adrenal gland",
)
ALWAYS_THERE = (6, 8, 11)
"""Liver, aorta, pancreas: in every volume of an abdomen."""
NOT_AMONG_THE_EIGHT = (9, 10, 12, 13)
LARGER: tuple[tuple[int, int, float], ...] = (
    *((6, small, 1.0) for small in (2, 3, 4, 5, 8, 9, 10, 11, 12, 13)),  # the liver is the largest organ
    *((6, large, 0.5) for large in (1, 7)),  # diseased spleens and full stomachs can be almost as large
    *((11, gland, 1.0) for gland in (12, 13)),  # adrenal glands are the smallest organs
    *((organ, gland, 1.0) for organ in (1, 2, 3, 7) for gland in (12, 13)),
)
"""(a, b, factor): organ ``a`` has at least ``factor`` times the voxels of organ ``b``."""
SIDES: tuple[tuple[int, int, float], ...] = ((2, 3, 20.0), (12, 13, 20.0), (9, 8, 10.0))
"""(a, b, mm): ``a`` lies on the liver's side of ``b``; a distance below so many mm says nothing."""
NEAR_THE_BACK_MM = 20.0
"""The stomach lies in front of the spleen, so it is not so much nearer to the height of the kidneys."""


def problems_of_codes(codes: NDArray, affine: NDArray) -> list[str]:
    """The reasons why the codes of a volume are not BTCV's; empty if they can be.

    Args:
        codes: Whole numbers 0 to 13, shape ``(x, y, z)``.
        affine: 4 x 4 matrix from voxels to mm, in the orientation of NIfTI.
    """
    pieces = [piece.astype(np.uint8) for piece in np.moveaxis(codes, 2, 0)]  # slice by slice, to save memory
    counts = np.sum([np.bincount(piece.ravel(), minlength=len(ORGANS)) for piece in pieces], axis=0)
    found = [code for code in range(1, len(ORGANS)) if counts[code]]
    if not any(code in found for code in NOT_AMONG_THE_EIGHT):
        text = "has none of the codes 9, 10, 12 and 13, which BTCV's labels have: labels of TransUNet's 8 organs?"
        return [text]
    missing = [f"{code} ({ORGANS[code]})" for code in ALWAYS_THERE if code not in found]
    if missing:
        return [f"lacks the code {', '.join(missing)}, which every volume of BTCV has"]
    for large, small, factor in LARGER:
        if counts[large] and counts[small] and counts[large] < factor * counts[small]:
            return [
                f"is not in BTCV's code: {large} ({ORGANS[large]}) would have {counts[large]} voxels and {small} "
                f"({ORGANS[small]}) {counts[small]}"
            ]
    return _places({code: _centre(pieces, affine, code) for code in found})


def _places(centres: Mapping[int, NDArray]) -> list[str]:
    """Compare the places of organs with each other, so that a scan with mirrored axes passes."""
    across = centres[6][0] - centres[1][0] if 1 in centres else 0.0
    for right, left, margin in SIDES:
        if right not in centres or left not in centres or abs(across) < 20.0:
            continue
        distance = centres[right][0] - centres[left][0]
        if abs(distance) > margin and distance * across < 0:
            return [
                f"is not in BTCV's code: {right} ({ORGANS[right]}) would be on the spleen's side of {left} "
                f"({ORGANS[left]})"
            ]
    if {1, 2, 3, 7} <= centres.keys():
        back = (centres[2][1] + centres[3][1]) / 2
        if abs(centres[1][1] - back) > abs(centres[7][1] - back) + NEAR_THE_BACK_MM:
            return ["is not in BTCV's code: 1 (spleen) would be in front of 7 (stomach)"]
    return []


def _centre(pieces: Sequence[NDArray], affine: NDArray, code: int) -> NDArray:
    """The mean place of an organ in mm."""
    total, number = np.zeros(3), 0
    for z, piece in enumerate(pieces):
        x, y = np.nonzero(piece == code)
        total += (x.sum(), y.sum(), z * len(x))
        number += len(x)
    return affine[:3, :3] @ (total / number) + affine[:3, 3]
