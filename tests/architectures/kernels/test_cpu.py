import logging
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba.core.errors import TypingError
from oracle import literal

from nnunetv2_xattnres.architectures.kernels import cpu, cpu_loading, cpu_threads

EPS = 1e-6
# current feature: channels and size; earlier features: the same
CASES = {
    "n=1": (5, (5, 7), []),
    "2d": (18, (12, 20), [(18, (12, 20)), (7, (6, 10)), (18, (3, 20)), (36, (1, 1)), (3, (12, 20)), (18, (5, 7))]),
    "2d, one channel": (1, (4, 6), [(1, (2, 3)), (2, (4, 3))]),
    "2d, long rows": (6, (3, 300), [(6, (3, 75)), (4, (2, 100))]),
    "3d": (8, (4, 6, 10), [(8, (2, 3, 5)), (3, (4, 6, 10)), (8, (1, 6, 7)), (16, (1, 1, 1))]),
}


def tensors(case, dtype=torch.float32, order="contiguous"):
    """Features, weights and query, with some pixels that are zero in all channels."""
    torch.manual_seed(0)
    channels, size, earlier = CASES[case]
    features, weights = [], []
    for width, have in [*earlier, (channels, size)]:
        feature = torch.randn(2, width, *have)
        feature[:, :, 0] = 0
        features.append(in_order(feature.to(dtype), order))
        if width != channels:
            # with and without the axes of a convolution
            weights.append(torch.randn(channels, width, *[1] * len(size) if len(weights) % 2 else ()))
    return features, weights, torch.randn(channels)


def in_order(x, order):
    if order == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    if order == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if order == "part":
        return torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]
    return x


def expected(features, weights, query, upstream):
    """Output and gradients of the paper's equations in float64."""
    features, weights, query = (
        [x.double().requires_grad_() for x in features],
        [x.double().requires_grad_() for x in weights],
        query.double().requires_grad_(),
    )
    remaining = iter(weights)
    projections = [None if x.shape[1] == query.numel() else next(remaining) for x in features[:-1]]
    output, _ = literal(features[:-1], features[-1], projections, query, torch.ones_like(query), EPS)
    return [output.detach(), *torch.autograd.grad(output, [query, *features, *weights], upstream.double())]


def computed(features, weights, query, upstream):
    return [
        cpu.forward(features, weights, query, EPS),
        *cpu.backward(upstream, features, weights, query, EPS),
    ]


def error(got, want):
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-9))


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "transposed", "part"])
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_equations(case, order):
    features, weights, query = tensors(case, order=order)
    upstream = torch.randn(features[-1].shape)
    got = computed(features, weights, query, upstream)
    for index, (a, b) in enumerate(zip(got, expected(features, weights, query, upstream), strict=True)):
        assert error(a, b) < 1e-5, index
    for a, like in zip(got, [features[-1], query, *features, *weights], strict=True):
        assert a.shape == like.shape and a.dtype == like.dtype and a.stride() == torch.empty_like(like).stride()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2), (torch.float64, 1e-7)])
def test_each_feature_keeps_its_dtype(dtype, most):
    features, weights, query = tensors("2d", dtype)
    features[1] = features[1].float()
    if dtype == torch.float64:
        weights, query = [weight.double() for weight in weights], query.double()
    upstream = torch.randn(features[-1].shape).to(dtype)
    got = computed(features, weights, query, upstream)
    for a, b in zip(got, expected(features, weights, query, upstream), strict=True):
        assert error(a, b) < most
    assert [x.dtype for x in got] == [dtype, query.dtype, *(x.dtype for x in [*features, *weights])]


def test_values_whose_squares_overflow_half_precision():
    features, weights, query = tensors("2d", torch.float16)
    features[-1][0, :, 1] = 6e4
    upstream = torch.randn(features[-1].shape).mul(1e-3).half()  # the gradients are not to overflow
    got = computed(features, weights, query, upstream)
    for a, b in zip(got, expected(features, weights, query, upstream), strict=True):
        assert error(a, b) < 2e-3


def test_an_empty_batch():
    features, weights, query = [torch.zeros(0, 4, 2, 2), torch.zeros(0, 3, 4, 4)], [torch.ones(3, 4)], torch.ones(3)
    output, of_query, *_, of_weight = computed(features, weights, query, torch.zeros(0, 3, 4, 4))
    assert output.shape == (0, 3, 4, 4) and not of_query.any() and not of_weight.any()


@pytest.fixture
def four_threads(monkeypatch):
    """As if every map were large, on a machine with four cores."""
    monkeypatch.setattr(cpu_threads, "MIN_ELEMENTS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


def backwards(function, task, threads):
    """Compute the items in turn, the last one first."""
    left = np.arange(len(task.done))[::-1]
    for item in left:
        task.done[:], task.done[item], task.counter[0] = 1, 0, 0
        function(task.address)
    assert task.done.all()


@pytest.mark.parametrize("case", CASES)
def test_the_bits_do_not_depend_on_which_thread_is_first(case, four_threads, monkeypatch):
    features, weights, query = tensors(case)
    upstream = torch.randn(features[-1].shape)
    want = computed(features, weights, query, upstream)
    for a, b in zip(want, expected(features, weights, query, upstream), strict=True):
        assert error(a, b) < 1e-5
    monkeypatch.setattr(cpu, "run", backwards)
    for a, b in zip(computed(features, weights, query, upstream), want, strict=True):
        assert torch.equal(a, b)


POOLED = [
    ((2, 3, 8, 128), (4, 64)),
    ((2, 3, 9, 96), (3, 32)),
    ((1, 2, 64, 64), (1, 1)),
    ((2, 3, 8, 4), (4, 2)),
    ((2, 3, 15, 70), (8, 35)),
    ((2, 3, 6, 8, 64), (6, 4, 32)),
    ((2, 3, 6, 4, 72), (2, 1, 18)),
    ((2, 3, 4, 4, 6), (2, 4, 2)),
    ((2, 3, 15, 5, 6), (8, 3, 3)),
]


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize(("shape", "size"), POOLED)
def test_pooling_and_its_gradient_are_those_of_torch(shape, size, order, four_threads):
    torch.manual_seed(0)
    x = in_order(torch.randn(shape).mul(2).round(), order)  # so coarse that often several elements are the largest
    plain = (F.adaptive_max_pool2d if x.ndim == 4 else F.adaptive_max_pool3d)(x.requires_grad_(), size)
    got = cpu.max_pool(x.detach(), size)
    assert torch.equal(got, plain)
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    assert got.is_contiguous(memory_format=channels_last if order == "channels_last" else torch.contiguous_format)
    upstream = torch.randn_like(plain)
    want = torch.autograd.grad(plain, x, upstream)[0]
    torch.testing.assert_close(cpu.max_pool_backward(x.detach(), upstream), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("shape", "size"), [((1, 2, 4, 64), (2, 32)), ((1, 2, 5, 7), (3, 4))])
def test_pooling_keeps_the_dtype(shape, size, dtype):
    x = torch.randn(shape).to(dtype)
    pooled = cpu.max_pool(x, size)
    assert pooled.dtype == dtype and torch.equal(pooled, F.adaptive_max_pool2d(x.double(), size).to(dtype))
    assert cpu.max_pool_backward(x, pooled).dtype == dtype


@pytest.mark.parametrize("width", [8, 64])
def test_not_a_number_is_not_lost(width):
    x = torch.zeros(1, 1, 2, width)
    x[0, 0, 1, 7] = torch.nan
    assert cpu.max_pool(x, (1, width // 2))[0, 0, 0].isnan().nonzero().tolist() == [[3]]


@pytest.fixture
def forgotten(caplog):
    """As in a process in which nobody has asked for Numba."""
    cpu.is_available.cache_clear()
    yield caplog
    cpu.is_available.cache_clear()


def test_numba_is_available(forgotten):
    assert cpu.is_available() and not [r for r in forgotten.records if r.levelno > logging.WARNING]


def test_numba_is_not_available_where_it_is_not_installed(forgotten, monkeypatch):
    for name in ("cpu_loading", "cpu_compiled"):
        monkeypatch.delitem(sys.modules, f"nnunetv2_xattnres.architectures.kernels.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it raises ImportError
    assert_says_once(forgotten, "ModuleNotFoundError")


def test_numba_is_not_available_where_it_must_not_compile(forgotten, monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert_says_once(forgotten, "NUMBA_DISABLE_JIT=1")


def test_numba_is_not_available_where_it_cannot_compile(forgotten, monkeypatch):
    def load(name, dtype):
        raise TypingError("Failed in nopython mode pipeline\nand so on\nfor fifty lines")

    monkeypatch.setattr(cpu_loading, "load", load)
    assert_says_once(forgotten, "Failed in nopython mode pipeline")


def assert_says_once(log, reason):
    assert not cpu.is_available() and not cpu.is_available()
    (message,) = log.messages
    assert reason in message and "plain" in message and "\n" not in message
