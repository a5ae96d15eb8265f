"""What the compiler makes of the Triton kernels, without a GPU: registers that spill, and the width of loads."""

import collections
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled"),
    pytest.mark.slow,
]
CARDS = {80: "A100", 89: "RTX 4090, L40", 90: "H100"}
KERNELS = ("mix", "gradient", "narrow")


def compiled(name, channels, dtype, tile, card):
    """Bytes spilled, and how many loads there are of each kind."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nnunetv2_xattnres.architectures.kernels import triton_kernels as ours

    kernel = getattr(ours, f"_{name}_kernel")
    entry, block = f"*{dtype}", ours.block_of(channels)
    signature = {"table": "*i64", "heights": "*i32", "query_ptr": "*fp32"}
    if name == "mix":
        signature |= {"out_ptr": entry, "eps": "fp32"}
    else:
        signature |= {"grad_ptr": entry, "softmax_ptr": "*fp32", "small_ptr": "*fp32", "partial_ptr": "*fp32"}
        signature |= {"eps": "fp32"} if name == "gradient" else {}
    signature |= dict.fromkeys(("H", "R", "FULL", "SMALL"), "i32")
    constants = {"C": channels, "CHANNELS_LAST": True, "BLOCK_C": block, **ours.sizes_of(kernel, block, tile)}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(
        fn=kernel, signature=signature | dict.fromkeys(constants, "constexpr"), constexprs=constants, attrs=aligned
    )
    options = {"num_warps": tile[2], "num_stages": 3}
    result = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    suffix = "a" if card >= 90 else ""
    said = subprocess.run(
        [ptxas, "-v", f"--gpu-name=sm_{card}{suffix}", "-o", os.devnull, "/dev/stdin"],
        input=result.asm["ptx"], capture_output=True, text=True,
    ).stderr  # fmt: skip
    loads = collections.Counter(re.findall(r"ld\.global((?:\.\w+)*)", result.asm["ptx"]))
    return int(re.search(r"(\d+) bytes spill stores", said)[1]), loads


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills_and_loads_are_wide(name, card):
    """Entries are a loop inside the kernels, so that their number, from 2 to 16 and beyond, changes nothing."""
    from nnunetv2_xattnres.architectures.kernels import triton_kernels as ours

    tiles = ours.NARROW_TILES if name == "narrow" else ours.TILES
    for channels, dtype in ((32, "fp16"), (32, "bf16"), (32, "fp32"), (320, "fp16")):
        for tile in tiles:
            spilled, loads = compiled(name, channels, dtype, tile, card)
            assert spilled == 0, (channels, dtype, tile)
            assert loads[".v4.b32"] > 0 and loads[".b16"] == 0, (channels, dtype, tile, loads)
            if name != "narrow":  # which loads five numbers per pixel as well
                assert loads[".b32"] <= 1 and loads[".v2.b32"] == 0, (channels, dtype, tile, loads)
