"""The Triton kernels under Triton's interpreter: in processes of their own, as it is chosen at import."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from oracle import literal

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

# name: size of the current feature, channels, sizes of the earlier entries. Several tiles of pixels where C is small.
CASES = {
    "2d n=1": ((5, 7), 5, []),
    "2d n=2, odd": ((17, 19), 5, [(17, 19)]),
    "2d n=3, C=18, one smaller": ((9, 8), 18, [(9, 8), (5, 4)]),
    "2d n=6, smaller": ((8, 10), 5, [(8, 10), (4, 5), (2, 3), (8, 5), (8, 10)]),
    "2d one channel": ((4, 6), 1, [(4, 6), (2, 3)]),
    "2d one pixel": ((1, 1), 5, [(1, 1), (1, 1)]),
    "3d n=4, C=18": ((4, 5, 6), 18, [(4, 5, 6), (2, 3, 3), (4, 3, 6)]),
    "3d n=5": ((5, 8, 9), 5, [(5, 8, 9), (5, 8, 9), (1, 1, 1), (3, 4, 5)]),
}


def tensors(case, dtype, channels_last):
    size, channels, earlier = CASES[case]
    values = [torch.randn(2, channels, *s).to(dtype) for s in [*earlier, size]]
    for value in values:
        value[:, :, 0] = 0  # all-zero pixels
    if channels_last:
        memory_format = torch.channels_last if len(size) == 2 else torch.channels_last_3d
        values = [value.contiguous(memory_format=memory_format) for value in values]
    query = torch.randn(channels, dtype=torch.promote_types(dtype, torch.float32))
    return [value.requires_grad_() for value in values], query.requires_grad_()


def oracle(values, query, eps):
    *history, x = values
    return literal(history, x, [None] * len(history), query, torch.ones_like(query), eps)[0]


def differentiate(aggregate, values, query):
    out = aggregate(values, query, 1e-6)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad(out, [query, *values], upstream)]


def check_equations():
    from nnunetv2_xattnres.architectures.triton_kernel import aggregate

    for case in CASES:
        for channels_last in (False, True):
            values, query = tensors(case, torch.float32, channels_last)
            got = differentiate(aggregate, values, query)
            want = differentiate(oracle, values, query)
            for name, a, b in zip(["output", "query", *map(str, range(len(values)))], got, want, strict=True):
                torch.testing.assert_close(
                    a, b, rtol=1e-4, atol=1e-4, msg=lambda m, where=(case, channels_last, name): f"{where}: {m}"
                )
            assert got[0].stride() == values[-1].stride(), (case, channels_last)


def check_half():
    from nnunetv2_xattnres.architectures.triton_kernel import aggregate

    values, query = tensors("2d n=3, C=18, one smaller", torch.float16, True)
    with torch.no_grad():
        values[0][:, :, 1] = 300  # its square overflows half precision
    with torch.autocast("cpu", torch.bfloat16):
        got = differentiate(aggregate, values, query)
    want = differentiate(oracle, [value.detach().double().requires_grad_() for value in values], query)
    assert [t.dtype for t in got] == [torch.float16, torch.float32] + [torch.float16] * 3
    for a, b in zip(got, want, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-2, atol=1e-2)


def check_switch_and_compile():
    from torch import nn

    from nnunetv2_xattnres.architectures import XAttnRes, use_kernel

    module = XAttnRes([3, 5], 5, nn.Conv2d, query_init="random")
    inputs = [torch.randn(2, 3, 12, 10), torch.randn(2, 5, 3, 5)], torch.randn(2, 5, 6, 5)
    outputs, gradients = {}, {}
    for name in ("plain", "triton", "compiled"):
        use_kernel("plain" if name == "plain" else "triton")
        run = torch.compile(module, backend="aot_eager", fullgraph=True) if name == "compiled" else module
        outputs[name] = run(*inputs)
        gradients[name] = torch.autograd.grad(outputs[name].square().sum(), list(module.parameters()))
    for name in ("triton", "compiled"):
        torch.testing.assert_close(outputs[name], outputs["plain"], rtol=1e-4, atol=1e-4)
        for a, b in zip(gradients[name], gradients["plain"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def check_opcheck():
    from nnunetv2_xattnres.architectures.triton_kernel import _mix

    values, query = tensors("2d n=2, odd", torch.float32, True)
    torch.library.opcheck(_mix, (values, query, 1e-6))


def check_cpu_is_refused():
    from nnunetv2_xattnres.architectures.triton_kernel import aggregate
    from nnunetv2_xattnres.errors import InputError

    with pytest.raises(InputError, match=r"'triton' needs tensors on a CUDA device.*'cpu'"):
        aggregate([torch.zeros(1, 2, 3, 3)], torch.zeros(2), 1e-6)


def check_absent():
    sys.modules["triton"] = None  # importing it raises ImportError
    from nnunetv2_xattnres.architectures import use_kernel

    with pytest.raises(ValueError, match=r"plain, numba$"):
        use_kernel("triton")


def run(checks, interpret):
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    command = [sys.executable, __file__, *(check.__name__ for check in checks)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_interpreted_kernels():
    run([check_equations, check_half, check_switch_and_compile, check_opcheck], "1")


def test_without_the_interpreter_a_cpu_is_refused():
    run([check_cpu_is_refused], "0")


def test_without_triton_the_kernel_is_not_offered():
    run([check_absent], "0")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        torch.manual_seed(0)
        globals()[name]()
