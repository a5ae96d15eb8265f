"""What the compiler makes of the Triton kernels, without a GPU. Writes docs/kernel-report.md:

python tests/architectures/kernels/kernel_report.py
"""

import inspect
import os
import re
import subprocess
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "kernel-report.md"
CARDS = {80: "A100", 89: "RTX 4090, L40", 90: "H100"}
KERNELS = ("mix", "gradient", "narrow")
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
# dtype, channels_last, channels
CASES = [*((dtype, channels_last, 32) for dtype in DTYPES for channels_last in (True, False)), ("fp16", True, 320)]
INTRODUCTION = """# Registers and loads of the GPU kernels

What Triton {version} and its ptxas make of each kernel, without a GPU. `{command}` writes this page, and a test compares the spills and the widths of the loads with what is compiled. Registers depend on the version of Triton: they are only shown. With Triton 3.2, the oldest one that is tested, up to 8 bytes spill in a few tiles (sm_90).

The number of entries is no row of the table. Entries are a loop within each kernel and their number is an ordinary argument, so that one compiled kernel mixes 2 to 16 entries and more. A range goes over the tiles that are tuned on the user's card. `bytes` is the width of the loads that read most. 16 is the widest that there is. The kernel `narrow` reads the output's gradient, and stores gradients of entries in channels_last: where the output is contiguous, it reads two half-precision numbers at once.

| kernel | card | dtype | layout | channels | registers | bytes spilled | bytes |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501


@cache
def compiled(name: str, channels: int, dtype: str, channels_last: bool, tile: tuple[int, int, int], card: int):
    """Registers, bytes spilled, and the widths in bytes of loads in the order of the code."""
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
    constants = {"C": channels, "CHANNELS_LAST": channels_last, "BLOCK_C": block, **ours.sizes_of(kernel, block, tile)}
    # as it is called: addresses are multiples of 16, and so is the number of columns of all but the smallest maps
    aligned = [i for i, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or name == "R"]
    if "constexprs" in inspect.signature(ASTSource).parameters:
        attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
        typed = signature | dict.fromkeys(constants, "constexpr")
        source = ASTSource(fn=kernel, signature=typed, constexprs=constants, attrs=attributes)
    else:  # Triton before 3.3
        from triton.backends.compiler import AttrsDescriptor

        properties = {"tt.divisibility": aligned, "tt.equal_to": []}
        attributes = AttrsDescriptor.from_dict({"cls": "AttrsDescriptor", "arg_properties": properties})
        source = ASTSource(fn=kernel, signature=signature, constants=constants, attrs=attributes)
    options = {"num_warps": tile[2], "num_stages": 3}
    ptx = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options).asm["ptx"]
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    suffix = "a" if card >= 90 else ""
    said = subprocess.run(
        [ptxas, "-v", f"--gpu-name=sm_{card}{suffix}", "-o", os.devnull, "/dev/stdin"],
        input=ptx, capture_output=True, text=True,
    ).stderr  # fmt: skip
    widths = [
        int(vector or 1) * int(bits) // 8
        for vector, bits in re.findall(r"ld\.global(?:\.[a-uw-z]\w*(?:::\w+)?)*(?:\.v(\d))?\.\w(\d+)", ptx)
    ]
    return (
        int(re.search(r"Used (\d+) registers", said)[1]),
        int(re.search(r"(\d+) bytes spill stores", said)[1]),
        widths,
    )


def tiles_of(name: str, channels_last: bool):
    from nnunetv2_xattnres.architectures.kernels import triton_kernels as ours

    return ours.tiles_for(getattr(ours, f"_{name}_kernel"), channels_last)


def row(name: str, card: int, dtype: str, channels_last: bool, channels: int) -> list[str]:
    """A row of the table."""
    results = [compiled(name, channels, dtype, channels_last, tile, card) for tile in tiles_of(name, channels_last)]
    registers, spilled, _ = zip(*results, strict=True)
    layout = "channels_last" if channels_last else "contiguous"
    # statistics, addresses and the query are loaded as well: what is loaded most, in bytes, are the entries
    widest = [max(set(widths), key=lambda width: widths.count(width) * width) for *_, widths in results]
    return [name, f"sm_{card} ({CARDS[card]})", DTYPES[dtype], layout, str(channels), span(registers), span(spilled),
            span(widest)]  # fmt: skip


def span(numbers) -> str:
    return "-".join(map(str, sorted({min(numbers), max(numbers)})))


def rows(name: str, card: int) -> list[list[str]]:
    return [row(name, card, *case) for case in CASES]


def read() -> list[list[str]]:
    """The rows of the page as it is."""
    lines = PAGE.read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]


if __name__ == "__main__":
    import triton

    command = f"python {Path(__file__).relative_to(PAGE.parents[1])}"
    text = INTRODUCTION.format(version=triton.__version__, command=command)
    for kernel in KERNELS:
        for card in CARDS:
            text += "".join(f"| {' | '.join(cells)} |\n" for cells in rows(kernel, card))
    PAGE.write_text(text)
