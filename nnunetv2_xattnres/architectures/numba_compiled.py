"""How functions are compiled by Numba, and how they reach a tensor's memory."""
# ruff: noqa: ANN001, ANN201, ANN202 - Numba functions: the arguments are arrays, and compiled for whatever they are

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from numba import carray, njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

# sums in any order, as vector instructions need; but NaN and infinity stay what they are
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz"}}

# part of the names of the files on disk: Numba notices a change in a function, but none in those that it calls
_SOURCES = hashlib.sha256()
for _file in sorted(Path(__file__).parent.glob("numba_*.py")):
    _SOURCES.update(_file.read_bytes())


def compiled(function: Callable) -> Callable:
    """Compile on the first call, and keep the result on disk for the next process."""
    function.__qualname__ += f"_{_SOURCES.hexdigest()[:8]}"
    dispatcher = njit(**OPTIONS)(function)
    with suppress(RuntimeError):  # no folder can be written to: compile anew in each process
        dispatcher._cache = _Cache(function)  # what njit(cache=True) does, with another class
    return dispatcher


class _Cache(FunctionCache):
    """The files of compiled functions, which a full disk or a used-up quota is no reason to stop for."""

    def save_overload(self, sig, data):
        with suppress(OSError):
            super().save_overload(sig, data)


@intrinsic
def _pointer(_context, address):
    def cast(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), cast


@compiled
def row_of(layout, b, c, d, h, width, like):
    """A row of a tensor as it lies in memory, ``[(width - 1) * step + 1]``, of the type of ``like``."""
    offset = b * layout[1] + c * layout[2] + d * layout[3] + h * layout[4]
    return carray(_pointer(layout[0] + offset * like.itemsize), ((width - 1) * layout[5] + 1,), like.dtype)
