"""What all Triton kernels share: tables of addresses in device memory, tiles, and how a kernel is started.

With ``TRITON_INTERPRET=1`` set before this module is imported, the kernels run on a CPU, slowly. The tests do that.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Triton functions: the arguments are pointers, tiles and compile-time constants

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ALIGNMENT = 16  # bytes that the kernels load at once
TABLE_STEP = 48  # addresses that one launch writes


@triton.jit
def _write_four(table, p0, p1, p2, p3):
    tl.store(table, p0.to(tl.int64))
    tl.store(table + 1, p1.to(tl.int64))
    tl.store(table + 2, p2.to(tl.int64))
    tl.store(table + 3, p3.to(tl.int64))


@triton.jit(do_not_specialize=["start", *(f"p{number}" for number in range(TABLE_STEP))])
def _write_table(
    table, start, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15, p16, p17, p18, p19, p20, p21,
    p22, p23, p24, p25, p26, p27, p28, p29, p30, p31, p32, p33, p34, p35, p36, p37, p38, p39, p40, p41, p42, p43, p44,
    p45, p46, p47,
):  # fmt: skip
    """Write addresses to a table; arguments instead of a tuple, which older Tritons do not know."""
    table += start
    _write_four(table, p0, p1, p2, p3)
    _write_four(table + 4, p4, p5, p6, p7)
    _write_four(table + 8, p8, p9, p10, p11)
    _write_four(table + 12, p12, p13, p14, p15)
    _write_four(table + 16, p16, p17, p18, p19)
    _write_four(table + 20, p20, p21, p22, p23)
    _write_four(table + 24, p24, p25, p26, p27)
    _write_four(table + 28, p28, p29, p30, p31)
    _write_four(table + 32, p32, p33, p34, p35)
    _write_four(table + 36, p36, p37, p38, p39)
    _write_four(table + 40, p40, p41, p42, p43)
    _write_four(table + 44, p44, p45, p46, p47)


@triton.jit
def entry_at(table, index, like):
    """The pointer of a tensor of ours, whose address is a multiple of 16 bytes, of the type of ``like``."""
    return tl.multiple_of(tl.load(table + index).to(like.dtype), 16)


# What triton.jit returns depends on TRITON_INTERPRET at the time of import
INTERPRETED = not isinstance(entry_at, triton.runtime.JITFunction)


class Tile(tuple):
    """Compile-time constants, warps and registers of a kernel, to choose from on the user's card."""

    __slots__ = ()

    def __new__(cls, warps: int, registers: int | None = None, **constants: int) -> Tile:
        """Constants by their names in the kernel; ``registers`` of a thread at most, ``None`` as the compiler likes."""
        return super().__new__(cls, (warps, registers, *constants.items()))

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return self[0]

    @property
    def registers(self) -> int | None:
        """Registers of a thread at most."""
        return self[1]

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options; only its form for NVIDIA knows a number of registers."""
        more = {} if self.registers is None or torch.version.hip else {"maxnreg": self.registers}
        return {"num_warps": self.warps, **more}

    @property
    def constants(self) -> dict[str, int]:
        """The kernel's arguments."""
        return dict(self[2:])


@lru_cache(maxsize=64)
def _tuned(kernel: Any, tiles: tuple[Tile, ...], key: tuple[str, ...]) -> Any:
    """The kernel, to be tuned once per card and constants; newer Tritons keep the result on disk."""
    configs = [triton.Config(tile.constants, **tile.options) for tile in tiles]
    more = {"cache_results": True} if "cache_results" in signature(triton.autotune).parameters else {}
    return triton.autotune(configs, key=list(key), do_bench=_bench, **more)(kernel)


def _bench(call: Any, quantiles: Sequence[float]) -> list[float]:
    return triton.testing.do_bench(call, warmup=3, rep=15, quantiles=quantiles)


# The tuner looks at every argument of every call, which takes longer than the launch: it is asked once.
_chosen: dict[Any, Tile] = {}


def launch(
    kernel: Any, tiles: tuple[Tile, ...], grid: Any, arguments: Sequence[Any], constants: dict[str, Any], like: Tensor,
    by: dict[str, int] | None = None,
) -> Tile:  # fmt: skip
    """Run a kernel with the best of ``tiles``; with the first one where nothing can be timed.

    Args:
        kernel: The Triton function.
        tiles: To choose from.
        grid: A function of a tile's constants.
        arguments: Of the kernel.
        constants: Compile-time constants beside the tile's. Each set of them has a tile of its own.
        like: A tensor of the dtype and on the device that the kernel works with.
        by: Those of ``arguments`` of which each value has a tile of its own, too, by their names.

    Returns:
        The tile that ran.
    """
    if INTERPRETED or len(tiles) == 1:
        tile = tiles[0]
    else:
        by = by or {}
        key = (kernel, tiles, *constants.values(), *by.values(), like.dtype, like.device)
        found = _chosen.get(key)
        if found is None and not torch.cuda.is_current_stream_capturing():
            # dtypes cannot be written to the file that keeps the result; those of the arguments are looked at anyway
            numbers = [name for name, value in constants.items() if isinstance(value, int)]
            tuned = _tuned(kernel, tiles, (*numbers, *by))
            tuned[grid](*arguments, **constants)
            best = tuned.best_config
            _chosen[key] = tile = Tile(best.num_warps, best.maxnreg, **best.kwargs)
            return tile
        tile = found or tiles[0]
    kernel[grid(tile.constants)](*arguments, **constants, **tile.constants, **tile.options)
    return tile


def ceil_div(whole: int, part: int) -> int:
    """``whole / part``, rounded up. Triton's own takes longer on the host than a launch."""
    return -(-whole // part)


def write_table(table: Tensor, addresses: Sequence[int], start: int = 0) -> None:
    """Write addresses to the numbers of ``table`` from ``start``, without a copy from the host."""
    for first in range(0, len(addresses), TABLE_STEP):
        some = addresses[first : first + TABLE_STEP]
        padding = [some[-1]] * (TABLE_STEP - len(some))
        _write_table[(1,)](table, start + first, *some, *padding, num_warps=1)


def table_for(count: int, like: Tensor) -> Tensor:
    """Room for so many addresses."""
    return torch.empty(ceil_div(count, TABLE_STEP) * TABLE_STEP, dtype=torch.int64, device=like.device)
