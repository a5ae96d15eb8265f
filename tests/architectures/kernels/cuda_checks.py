"""What the CUDA form must do, as functions: the tests run them on a CPU, ``bench --check`` has its own on a GPU.

TRITON_INTERPRET=1 python cuda_checks.py float32         under Triton's interpreter
TRITON_INTERPRET=0 python cuda_checks.py every_dtype     the plain-torch half
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracle import literal

BOUNDS = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.float32: 1e-5, torch.float64: 1e-11}
# name: size of the current feature, its channels, then (channels, size) of each earlier entry
# rows and entries are few: the interpreter takes a program for two rows of an image, and in it a step for each entry
CASES = {
    "2d n=1": ((5, 7), 6, []),
    "2d equal": ((5, 10), 18, [(18, (5, 10)), (6, (5, 10))]),
    "2d ratios 2 to 64, columns": ((4, 64), 6, [(6, (1, 1)), (6, (2, 2)), (12, (4, 4)), (6, (4, 8)), (9, (1, 16))]),
    "2d ratios 2 to 64, rows": ((64, 2), 6, [(6, (1, 1)), (9, (32, 1))]),
    "2d shrinks and stretches": ((6, 10), 18, [(18, (12, 5)), (7, (3, 20)), (18, (3, 10)), (5, (6, 5))]),
    "2d odd ratios": ((9, 23), 32, [(32, (7, 5)), (16, (3, 22)), (32, (8, 1)), (8, (5, 13))]),
    "2d n=16": ((2, 8), 6, [(3 + 3 * (i % 3), (1 + i % 2, 2 ** (i % 4))) for i in range(15)]),
    "2d n=17 of full size": ((2, 4), 6, [(6, (2, 4))] * 16),
    "2d C=36": ((4, 8), 36, [(36, (2, 4)), (72, (2, 2)), (18, (4, 8))]),
    "2d C=123": ((2, 6), 123, [(123, (1, 3)), (36, (2, 6)), (123, (1, 1))]),
    "2d C=320": ((2, 4), 320, [(320, (1, 2)), (123, (2, 4))]),
    "2d large values": ((4, 10), 6, [(6, (1, 1)), (6, (2, 5)), (6, (4, 10))]),
    "2d one pixel": ((1, 1), 6, [(6, (1, 1)), (3, (1, 1))]),
    "3d": ((2, 6, 8), 6, [(6, (1, 3, 4)), (12, (1, 1, 1)), (6, (2, 6, 8)), (3, (2, 2, 2))]),
    "3d large values": ((2, 4, 6), 6, [(6, (1, 1, 3)), (6, (2, 4, 6))]),
    "3d anisotropic": ((3, 4, 6), 18, [(18, (3, 2, 3)), (6, (2, 4, 6)), (18, (3, 8, 12)), (18, (2, 3, 2))]),
    "3d odd": ((5, 3, 9), 6, [(6, (3, 2, 4)), (5, (5, 2, 9)), (6, (1, 1, 1)), (2, (11, 3, 20))]),
}
ONE_IMAGE = {name for name, (size, _, earlier) in CASES.items() if size[0] * (1 + len(earlier)) > 30}  # else two


def build(case, dtype, channels_last, size_of_values=1.0):
    """Features (pooled), weights and query, and the same in float64; some pixels are zero in every channel."""
    from nnunetv2_xattnres.architectures.xattnres import max_pool_plain

    size, channels, earlier = CASES[case]
    torch.manual_seed(len(case))
    features, weights = [], []
    for width, own in [*earlier, (channels, size)]:
        feature = torch.randn(1 if case in ONE_IMAGE else 2, width, *own).mul(size_of_values).clamp(-6e4, 6e4)
        if size_of_values == 1:  # else their gradients are beyond half precision
            feature[:, :, 0] = 0
        pooled = [min(a, b) for a, b in zip(own, size, strict=True)]
        feature = max_pool_plain(feature, pooled).to(dtype)
        if channels_last:
            feature = feature.contiguous(
                memory_format=torch.channels_last if len(size) == 2 else torch.channels_last_3d
            )
        features.append(feature)
        if width != channels:
            weights.append(torch.randn(channels, width, *[1] * len(size)).div(width**0.5))
    query = torch.randn(channels).div(channels**0.5)
    if dtype == torch.float64:
        weights, query = [weight.double() for weight in weights], query.double()
    leaves = [*features, *weights, query]
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    return features, weights, query, exact


def gradients(out, leaves, seed=0):
    torch.manual_seed(seed)
    upstream = torch.randn(out.shape, dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, leaves, upstream)


def error(got, want):
    assert got.isfinite().all() == want.isfinite().all()
    return ((got.double() - want).norm() / want.norm()).item() if want.any() else got.abs().max().item()


def compare(case, dtype, channels_last, size_of_values=1.0, twice=True):
    """The relative error of the output and of every gradient, by name; and whether they are the same twice."""
    from nnunetv2_xattnres.architectures.xattnres import kernel_for, use_kernel

    features, weights, query, exact = build(case, dtype, channels_last, size_of_values)
    leaves = [leaf.requires_grad_() for leaf in (*features, *weights, query)]
    with use_kernel("cuda"):
        out = kernel_for(query).mix(features, weights, query, 1e-6)
    count = len(features)
    remaining, projections = exact[count:-1], []
    for feature in exact[: count - 1]:
        projections.append(remaining.pop(0) if feature.shape[1] != len(query) else None)
    *history, x = exact[:count]
    want, _ = literal(history, x, projections, exact[-1], torch.ones_like(exact[-1]), 1e-6)
    names = ["output", *(f"feature {i}" for i in range(count)), *(f"weight {i}" for i in range(len(weights))), "query"]
    got = [out, *gradients(out, leaves)]
    assert [tensor.dtype for tensor in got] == [features[-1].dtype, *(leaf.dtype for leaf in leaves)]
    assert out.stride() == features[-1].stride()
    if twice:
        with use_kernel("cuda"):
            again = kernel_for(query).mix(features, weights, query, 1e-6)
        again = [again, *gradients(again, leaves)]
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True)), f"{case}: not the same twice"
    wanted = [want, *torch.autograd.grad(want, exact, upstream_of(out))]
    return {name: error(a, b) for name, a, b in zip(names, got, wanted, strict=True)}


def upstream_of(out):
    torch.manual_seed(0)
    return torch.randn(out.shape, dtype=torch.float64).to(out.dtype).double()


def check(case, dtype, channels_last, size_of_values=1.0, twice=True):
    for name, found in compare(case, dtype, channels_last, size_of_values, twice).items():
        assert found <= BOUNDS[dtype], f"{case}, {dtype}, channels_last {channels_last}, {name}: {found:.2e}"


def every_dtype():
    for dtype in BOUNDS:
        for case in CASES:
            for channels_last in (False, True):
                check(case, dtype, channels_last)


def float16():
    without_checks_for_overflow()
    _interpreted(torch.float16)


def bfloat16():
    from triton import language
    from triton.runtime import interpreter

    without_checks_for_overflow()
    convert = interpreter._convert_float

    def rounded(values, source, target, mode):
        """A GPU rounds to the nearest bfloat16; the interpreter cuts bits off."""
        if (source, target) != (language.float32, language.bfloat16):
            return convert(values, source, target, mode)
        return torch.from_numpy(values.view(np.float32).copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)

    interpreter._convert_float = rounded
    _interpreted(torch.bfloat16)


def float32():
    _interpreted(torch.float32)


def without_checks_for_overflow():
    """The whole numbers of a kernel are the same in every type: for float32, the interpreter checks each of them."""
    from triton.runtime.interpreter import interpreter_builder

    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)


def prepare_the_language_once():
    """The interpreter prepares triton.language for each call of each function, and that takes longer than the call."""
    from triton.runtime import interpreter

    prepare, prepared = interpreter._patch_lang, {}

    def once(function):
        """Returns what has nothing to undo, so that all of it stays as it is."""
        namespace = id(function.__globals__)
        if namespace not in prepared:
            prepared[namespace] = type(prepare(function))
        return prepared[namespace]()

    interpreter._patch_lang = once


def _interpreted(dtype):
    """Every case in float32 and in one of the half types, in one layout and in the other one. Tiles are large: the
    interpreter's time goes with their number."""
    from nnunetv2_xattnres.architectures.kernels import triton_mixture, triton_products
    from nnunetv2_xattnres.architectures.kernels.triton_launch import Tile

    triton_mixture.TILES, triton_mixture.NARROW_TILES = ((1 << 16, 4),), ((1 << 12, 4),)
    triton_products.project_tiles = lambda *_: (Tile(4, BLOCK_M=32, BLOCK_P=1024, BLOCK_K=32),)
    triton_products.weight_tiles = lambda *_: (Tile(4, BLOCK_C=32, BLOCK_K=32, BLOCK_P=1024),)
    triton_products.shorten_tiles = lambda *_: (Tile(4, BLOCK_S=32, BLOCK_N=512, BLOCK_W=64),)
    triton_products.SUM_TILES = (Tile(4, BLOCK=4096, SPLITS=2),)
    for index, case in enumerate(CASES):
        half = (torch.float16, torch.bfloat16)[index // 2 % 2]
        if dtype in (torch.float32, half):
            check(case, dtype, channels_last=bool(index % 2) == (dtype == torch.float32), twice=False)


def few_images_at_a_time():
    """Where a batch does not fit the buffers: parts of it, one after the other, give the equations' numbers."""
    from nnunetv2_xattnres.architectures.kernels import cuda, triton_products, triton_reader

    triton_reader.CHUNK_BYTES = cuda.CHUNK_BYTES = 1
    triton_products.SPLIT_PIXELS = 4
    for channels_last in (False, True):
        for case in ("2d shrinks and stretches", "3d"):
            check(case, torch.float32, channels_last, twice=False)


def large_values():
    for case in ("2d large values", "3d large values"):
        check(case, torch.float16, case.startswith("2d"), 2e4, twice=False)


def pooling():
    from nnunetv2_xattnres.architectures.kernels import pooling as ours
    from nnunetv2_xattnres.architectures.xattnres import max_pool_plain

    for shape, size, memory_format in (
        ((2, 3, 12, 8), (6, 4), torch.contiguous_format),
        ((2, 6, 12, 8), (3, 8), torch.channels_last),
        ((1, 3, 8, 6, 4), (4, 3, 2), torch.contiguous_format),
        ((2, 5, 8, 6, 4), (8, 3, 1), torch.channels_last_3d),
        ((1, 2, 7, 5), (3, 2), torch.contiguous_format),
        ((1, 2, 7, 5, 3), (3, 2, 3), torch.contiguous_format),
    ):
        feature = torch.randint(0, 4, shape).float()  # ties, too
        feature.view(-1)[3] = float("nan")
        feature = feature.contiguous(memory_format=memory_format).requires_grad_()
        want = max_pool_plain(feature, size)
        upstream = torch.randn_like(want)
        (wanted,) = torch.autograd.grad(want, feature, upstream)
        out = ours.max_pool(feature.detach(), size)
        gradient = ours.max_pool_backward(feature.detach(), upstream)
        torch.testing.assert_close(out, want.detach(), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=0, equal_nan=True)
        assert gradient.stride() == feature.stride()


def without_triton():
    sys.modules["triton"] = None  # importing it raises ImportError
    check("2d equal", torch.float32, False)


def compiles():
    from torch import nn

    from nnunetv2_xattnres.architectures import XAttnRes, use_kernel

    module = XAttnRes([3, 5], 5, nn.Conv2d, query_init="random")
    inputs = [torch.randn(2, 3, 12, 10), torch.randn(2, 5, 3, 5)], torch.randn(2, 5, 6, 5)
    results = []
    for name in ("plain", "cuda", "compiled"):
        with use_kernel("plain" if name == "plain" else "cuda"):
            run = torch.compile(module, backend="aot_eager", fullgraph=True) if name == "compiled" else module
            out = run(*inputs)
            results.append([out, *torch.autograd.grad(out.square().sum(), list(module.parameters()))])
    for others in results[1:]:
        torch.testing.assert_close(others, results[0], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        prepare_the_language_once()
    for name in sys.argv[1:]:
        globals()[name]()
