"""What the compiler makes of the Triton kernels, without a GPU. Writes docs/kernel-report.md:

python tests/architectures/kernels/kernel_report.py
"""

import hashlib
import inspect
import re
import subprocess
import tempfile
from functools import cache
from itertools import product
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "kernel-report.md"
CARDS = {80: "A100", 89: "RTX 4090, L40", 90: "H100"}
MIXTURE = ("mix", "gradient", "narrow")
PRODUCTS = ("project", "project back", "weight", "shorten")
KERNELS = (*MIXTURE, *PRODUCTS)
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
LAYOUTS = (True, False)  # channels_last, contiguous
WIDTHS = (32, 64, 128, 256, 320, 512)
INTRODUCTION = """# Registers and loads of the GPU kernels

What Triton {version} makes of each kernel, without a GPU. `{command}` writes this page in eight minutes. Tests hold every row to no stack and to loads of 16 bytes, compare the digest of the kernels with this one, `{digest}`, and compile a part of them again. Registers that spill go to the stack: where it has 0 bytes, nothing spills. Registers depend on the version of Triton: they are only shown. With Triton 3.2, the oldest one that is tested, nothing spills on sm_90 either.

The kernels `mix`, `gradient` and `narrow` are the mixture and its gradients. The others are the products around it: `project` and `project back` for the projections and the gradients of their inputs, `weight` for those of their weights, and `shorten` for the gradient of interpolation along lines. Weights are float32.

The number of entries is no row of the table. Entries are a loop within each kernel and their number is an ordinary argument, so that one compiled kernel mixes 2 to 16 entries and more. A row is of {widths} channels, and a range goes over them and over the tiles that are tuned on the user's card. `bytes` is the width of the loads that read most. 16 is the widest that there is. For the products it is that of the branch for maps whose numbers of pixels and channels are multiples of 8; other maps are read number by number.

| kernel | card | dtype | layout | registers | stack | bytes |
| --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501


def called(name: str, channels: int, dtype: str, channels_last: bool):
    """The kernel, the types of its arguments, its constants, and its tiles, as it is called."""
    import triton.language as tl

    from nnunetv2_xattnres.architectures.kernels import triton_mixture, triton_products

    entry = f"*{dtype}"
    if name in MIXTURE:
        kernel, block = getattr(triton_mixture, f"_{name}_kernel"), triton_mixture.block_of(channels)
        types = {
            "table": "*i64",
            "sizes": "*i32",
            "groups": "*i32",
            "query_ptr": "*fp32",
            "out_ptr": entry,
            "grad_ptr": entry,
        }
        types |= {"softmax_ptr": "*fp32", "statistics_ptr": "*fp32", "partial_ptr": "*fp32", "eps": "fp32"}
        constants = {"MIDDLE": 1, "C": channels, "CHANNELS_LAST": channels_last, "BLOCK_C": block}
        tiles = triton_mixture.tiles_for(kernel, block, channels_last, 4 if dtype == "fp32" else 2)
    else:
        half, backward = dtype != "fp32", name == "project back"
        kernel = getattr(triton_products, f"_{name.split()[0]}_kernel")
        types = {"table": "*i64", "rows": "*i32", "like": entry, "weight_like": "*fp32", "partial": "*fp32"}
        constants = {"LAST": channels_last, "EXACT": tl.float32}
        if kernel is triton_products._project_kernel:
            constants |= {"BACKWARD": backward, "OUT_LAST": channels_last}
            tiles = triton_products.project_tiles(channels, half, backward)
        elif name == "weight":
            tiles = triton_products.weight_tiles(channels, half)
        else:
            constants["C"] = channels if channels_last else 1
            tiles = triton_products.shorten_tiles(half)
    known = constants | tiles[0].constants
    return kernel, {name: types.get(name, "i32") for name in kernel.arg_names if name not in known}, constants, tiles


@cache
def compiled(name: str, channels: int, dtype: str, channels_last: bool, tile, card: int):
    """Registers, bytes of the stack, and the widths in bytes of loads in the order of the code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, _ = called(name, channels, dtype, channels_last)
    signature = {argument: signature.get(argument, "constexpr") for argument in kernel.arg_names}
    constants = constants | tile.constants
    # as it is called: addresses are multiples of 16, and so are the lines of all but the smallest maps
    aligned = [i for i, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or name == "W"]
    if "constexprs" in inspect.signature(ASTSource).parameters:
        attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    else:  # Triton before 3.3
        from triton.backends.compiler import AttrsDescriptor

        properties = {"tt.divisibility": aligned, "tt.equal_to": []}
        attributes = AttrsDescriptor.from_dict({"cls": "AttrsDescriptor", "arg_properties": properties})
        signature = {argument: kind for argument, kind in signature.items() if argument not in constants}
        source = ASTSource(fn=kernel, signature=signature, constants=constants, attrs=attributes)
    options = {**tile.options, "num_stages": 3}
    made = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options).asm
    ptx = made["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made["cubin"])
        file.flush()
        program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        said = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    widths = [
        int(vector or 1) * int(bits) // 8
        for vector, bits in re.findall(r"ld\.global(?:\.[a-uw-z]\w*(?:::\w+)?)*(?:\.v(\d))?\.\w(\d+)", ptx)
    ]
    # those that go to shared memory in the background
    widths += [int(size, 0) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global[^,]*,[^,]*, (0x\w+|\d+)", ptx)]
    return int(re.search(r"REG:(\d+)", said)[1]), int(re.search(r"STACK:(\d+)", said)[1]), widths


def row(name: str, card: int, dtype: str, channels_last: bool) -> list[str]:
    """A row of the table."""
    results = [
        compiled(name, channels, dtype, channels_last, tile, card)
        for channels in WIDTHS
        for tile in called(name, channels, dtype, channels_last)[3]
    ]
    registers, stack, _ = zip(*results, strict=True)
    layout = "channels_last" if channels_last else "contiguous"
    # statistics, addresses and the query are loaded as well: what is loaded most, in bytes, are the entries
    most = [max(set(widths), key=lambda width: widths.count(width) * width) for *_, widths in results]
    # products have one branch for maps whose numbers of pixels and channels are multiples of 8, and one for others
    widest = [max(widths) for *_, widths in results] if name in PRODUCTS else most
    return [name, f"sm_{card} ({CARDS[card]})", DTYPES[dtype], layout, span(registers), span(stack), span(widest)]


def span(numbers) -> str:
    return "-".join(map(str, sorted({min(numbers), max(numbers)})))


def digest() -> str:
    """Of all that decides what is compiled, but for the version of Triton."""
    from nnunetv2_xattnres.architectures.kernels import triton_launch, triton_mixture, triton_pixels, triton_products

    found = hashlib.sha256()
    for module in (triton_launch, triton_pixels, triton_mixture, triton_products):
        for name, function in sorted(vars(module).items()):
            if hasattr(function, "fn") and function.fn.__module__ == module.__name__:
                found.update(f"{name} {inspect.getsource(function.fn)}".encode())
    for name, width, dtype, last in product(KERNELS, WIDTHS, DTYPES, LAYOUTS):
        _, types, constants, tiles = called(name, width, dtype, last)
        # Triton's types have other representations in other versions, and the same names
        named = {key: str(value) for key, value in constants.items()}
        found.update(f"{types} {named} {tiles}".encode())
    return found.hexdigest()[:16]


def read() -> list[list[str]]:
    """The rows of the page as it is."""
    lines = PAGE.read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]


if __name__ == "__main__":
    import triton

    command = f"python {Path(__file__).relative_to(PAGE.parents[1])}"
    widths = f"{', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]}"
    text = INTRODUCTION.format(version=triton.__version__, command=command, digest=digest(), widths=widths)
    for case in product(KERNELS, CARDS, DTYPES, LAYOUTS):
        text += f"| {' | '.join(row(*case))} |\n"
    PAGE.write_text(text)
