"""What the compiler makes of the Triton kernels, without a GPU: registers that spill, and the width of loads."""

import os
from importlib.util import find_spec

import pytest
from kernel_report import CARDS, CASES, KERNELS, compiled, read, rows, tiles_of

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled"),
    pytest.mark.slow,
]
REGISTERS = 5  # the column that depends on the version of Triton
OLDEST = os.environ.get("XATTNRES_OLDEST") == "1"


@pytest.mark.parametrize("card", [90] if OLDEST else CARDS)
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills_and_loads_are_wide(name, card):
    """Entries are a loop inside the kernels, so that their number, from 2 to 16 and beyond, changes nothing."""
    for case in CASES:
        dtype, channels_last, channels = case
        for tile in tiles_of(name, case):
            _, stack, widths = compiled(name, channels, dtype, channels_last, tile, card)
            assert stack == 0, (case, tile)  # else registers spill
            assert 16 in widths, (case, tile, widths)
            # products have another branch for maps whose numbers of pixels or channels do not allow it
            assert 2 not in widths or name in ("project", "project back", "weight"), (case, tile, widths)
            if (
                name == "mix" and channels_last
            ):  # addresses and sizes of entries alone; the others read statistics as well
                assert widths.count(4) <= 2, (case, tile, widths)


@pytest.mark.skipif(OLDEST, reason="the page is made with the newest Triton")
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", KERNELS)
def test_the_page_is_what_is_compiled(name, card):
    """Else make it again: python tests/architectures/kernels/kernel_report.py"""

    def stable(table):
        return [cells[:REGISTERS] + cells[REGISTERS + 1 :] for cells in table]

    mine = [cells for cells in read() if cells[0] == name and cells[1].startswith(f"sm_{card} ")]
    assert mine and stable(mine) == stable(rows(name, card))
