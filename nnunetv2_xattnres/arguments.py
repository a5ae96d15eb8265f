"""Values of options that several commands read in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_xattnres.errors import InputError


def parse_names(values: Sequence[str], what: str) -> list[str]:
    """``skip position``, also written ``skip,position``, as a list without repetitions.

    Raises:
        InputError: it holds no name.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not names:
        raise InputError(f"{what} is empty: give one or more names")
    return list(dict.fromkeys(names))
