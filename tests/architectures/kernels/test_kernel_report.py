"""What the compiler makes of the Triton kernels, without a GPU: registers that spill, and the width of loads."""

import os
from importlib.util import find_spec

import pytest
from kernel_report import CARDS, DTYPES, KERNELS, LAYOUTS, PAGE, called, compiled, digest, read

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled"),
    pytest.mark.slow,
]
OLDEST = os.environ.get("XATTNRES_OLDEST") == "1"


def cases():
    """A part of what the page was made of; more of it with another Triton than the page's."""
    import triton

    if f"Triton {triton.__version__} " in PAGE.read_text():
        return [("fp16", True, 32)]
    cases = [(dtype, channels_last, 32) for dtype in DTYPES for channels_last in LAYOUTS]
    return cases + [("fp16", channels_last, 320) for channels_last in LAYOUTS]


@pytest.mark.parametrize("card", [90] if OLDEST else CARDS)
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills_and_loads_are_wide(name, card):
    """Entries are a loop inside the kernels, so that their number, from 2 to 16 and beyond, changes nothing."""
    for case in cases():
        dtype, channels_last, channels = case
        for tile in called(name, channels, dtype, channels_last)[3]:
            _, stack, widths = compiled(name, channels, dtype, channels_last, tile, card)
            assert stack == 0, (case, tile)  # else registers spill
            assert 16 in widths, (case, tile, widths)
            # products have another branch for maps whose numbers of pixels or channels do not allow it
            assert 2 not in widths or name in ("project", "project back", "weight"), (case, tile, widths)
            if (
                name == "mix" and channels_last
            ):  # addresses and sizes of entries alone; the others read statistics as well
                assert widths.count(4) <= 2, (case, tile, widths)


def test_the_page_is_of_these_kernels():
    """Else make it again: python tests/architectures/kernels/kernel_report.py"""
    assert f"`{digest()}`" in PAGE.read_text()


def test_no_row_of_the_page_has_spills_or_narrow_loads():
    rows = read()
    assert len({tuple(row[:4]) for row in rows}) == len(KERNELS) * len(CARDS) * len(DTYPES) * len(LAYOUTS)
    assert [row for row in rows if row[5:] != ["0", "16"]] == []
