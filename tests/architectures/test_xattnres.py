import copy
import sys
from pathlib import Path

import pytest
import torch
from oracle import literal
from torch import nn

from nnunetv2_xattnres.architectures import History, XAttnRes, use_kernel, xattnres
from nnunetv2_xattnres.architectures.kernels import cpu, cpu_threads

# name: current feature's size, then each entry's (channels, size)
CASES = {
    "2d larger, smaller, equal": ((12, 10), [(7, (24, 20)), (5, (6, 5)), (7, (12, 10)), (4, (12, 10))]),
    "2d sizes that do not divide": ((8, 7), [(3, (60, 15)), (7, (30, 8)), (5, (3, 5)), (7, (15, 3))]),
    "2d one axis shrinks, one grows": ((8, 12), [(7, (16, 6)), (2, (3, 36)), (5, (8, 5)), (7, (5, 12))]),
    "2d single pixel": ((1, 1), [(7, (4, 4)), (3, (1, 1))]),
    "2d from a single pixel": ((5, 6), [(7, (1, 1)), (3, (1, 6))]),
    "2d a single pixel doubled": ((2, 2), [(7, (1, 1)), (3, (1, 2))]),
    "2d long history": ((8, 8), [(3 + i % 5, (2 ** (i % 5), 2 ** (i % 5))) for i in range(12)]),
    "2d no history": ((6, 6), []),
    "3d anisotropic": ((5, 8, 6), [(7, (5, 16, 12)), (3, (5, 4, 3)), (7, (2, 4, 3)), (4, (5, 8, 6))]),
    "3d odd": ((7, 5, 9), [(7, (14, 11, 9)), (3, (3, 2, 4)), (5, (7, 2, 9)), (7, (1, 1, 1)), (2, (15, 3, 20))]),
}
CHANNELS = 7


def build(case, dtype=torch.float64, channels_last=False, seed=0):
    torch.manual_seed(seed)
    size, entries = CASES[case]
    conv_op = nn.Conv2d if len(size) == 2 else nn.Conv3d
    module = XAttnRes([c for c, _ in entries], CHANNELS, conv_op).to(dtype)
    if entries:
        nn.init.normal_(module.query)
        nn.init.uniform_(module.norm_weight, 0.5, 1.5)
    history = [torch.randn(2, c, *s, dtype=dtype) for c, s in entries]
    x = torch.randn(2, CHANNELS, *size, dtype=dtype)
    if history:
        history[-1][:, :, 0] = 0
        x[:, :, 0] = 0  # pixels that are zero in every channel
    if channels_last:
        memory_format = torch.channels_last if len(size) == 2 else torch.channels_last_3d
        history = [h.contiguous(memory_format=memory_format) for h in history]
        x = x.contiguous(memory_format=memory_format)
    return module, [h.requires_grad_() for h in history], x.requires_grad_()


def oracle(module, history, x):
    if not history:
        return x, torch.ones_like(x[:, :1])
    projections = [None if isinstance(p, nn.Identity) else p.weight for p in module.projections]
    return literal(history, x, projections, module.query, module.norm_weight, module.eps)


def leaves(module, history, x):
    return [*history, x, *module.parameters()]


@pytest.fixture(params=["plain", "numba", "numba in threads", "cuda"])  # cuda on a CPU: its plain-torch half
def kernel(request, monkeypatch):
    threads = torch.get_num_threads()
    if request.param == "numba in threads":  # however small the work; a row or two a block
        monkeypatch.setattr(cpu_threads, "MIN_ELEMENTS_PER_THREAD", 1)
        monkeypatch.setattr(cpu, "BLOCK_PIXELS", 16)
        monkeypatch.setattr(cpu, "MIN_WIDTH", 1)
        torch.set_num_threads(3)
    with use_kernel(request.param.split()[0]):
        yield request.param
    torch.set_num_threads(threads)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_every_gradient_equal_the_equations(case, channels_last, kernel):
    module, history, x = build(case, channels_last=channels_last)
    out = module(history, x)
    expected, alpha = oracle(module, history, x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(module.routing_weights(history, x), alpha, rtol=1e-6, atol=1e-6, check_dtype=False)
    upstream = torch.randn_like(out)
    got = torch.autograd.grad(out, leaves(module, history, x), upstream, allow_unused=True)
    want = torch.autograd.grad(expected, leaves(module, history, x), upstream, allow_unused=True)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_low_precision_is_finite_and_close_to_float64(case, dtype, kernel):
    module, history, x = build(case, dtype)
    out = module(history, x)
    assert out.dtype == dtype
    exact = copy.deepcopy(module).double()
    history64 = [h.detach().double().requires_grad_() for h in history]
    x64 = x.detach().double().requires_grad_()
    expected = oracle(exact, history64, x64)[0]
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    gradients = torch.autograd.grad(out.float().sum(), leaves(module, history, x))
    want = torch.autograd.grad(expected.sum(), leaves(exact, history64, x64))
    for gradient, exact_gradient, leaf in zip(gradients, want, leaves(module, history, x), strict=True):
        assert gradient.isfinite().all()
        assert gradient.dtype == leaf.dtype
        gradient = gradient.double()
        pooled = any(leaf is entry for entry in history) and any(
            have > want for have, want in zip(leaf.shape[2:], x.shape[2:], strict=True)
        )
        # Of equal maxima in bfloat16, torch 2.6 takes another one than in float64.
        if torch.__version__.startswith("2.6.") and dtype == torch.bfloat16 and pooled:
            gradient, exact_gradient = gradient.flatten(2).sum(2), exact_gradient.flatten(2).sum(2)
        scale = exact_gradient.abs().max().clamp(min=1)
        torch.testing.assert_close(gradient / scale, exact_gradient / scale, rtol=0, atol=2 * tolerance)


def test_all_zero_input_has_no_nan_in_half_precision(kernel):
    for dtype in (torch.float16, torch.bfloat16):
        module, history, x = build("2d larger, smaller, equal", dtype)
        history = [torch.zeros_like(h, requires_grad=True) for h in history]
        x = torch.zeros_like(x, requires_grad=True)
        out = module(history, x)
        out.float().sum().backward()
        assert not out.isnan().any()
        assert not any(leaf.grad.isnan().any() for leaf in leaves(module, history, x))


def test_autocast_keeps_the_features_dtype_and_computes_in_float32(kernel):
    module, history, x = build("2d larger, smaller, equal", torch.float32)
    exact = module(history, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module([h.bfloat16() for h in history], x.bfloat16())
        mixed = module(history, x)
        weights = module.routing_weights(history, x)
    assert half.dtype == torch.bfloat16 and mixed.dtype == torch.float32 and weights.dtype == torch.float32
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("count", range(13))
def test_zero_queries_give_exactly_uniform_weights(count):
    module = XAttnRes([4] * count, 6, nn.Conv2d)
    history = [torch.randn(2, 4, 8, 8) for _ in range(count)]
    weights = module.routing_weights(history, torch.randn(2, 6, 16, 16))
    assert weights.shape == (2, count + 1, 16, 16)
    assert (weights == torch.tensor(1.0) / (count + 1)).all()


def test_without_history_it_is_the_identity_without_parameters():
    module = XAttnRes([], 6, nn.Conv3d)
    x = torch.randn(1, 6, 4, 4, 4)
    assert module([], x) is x
    assert not list(module.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("size", [(60, 60, 60), (64, 64, 64), (48, 20, 33)])
def test_the_shared_pyramid_pools_like_pooling_from_the_source(size, dims):
    torch.manual_seed(0)
    feature = torch.randint(0, 4, (1, 3, *size[:dims])).double().requires_grad_()  # ties, too
    history = History()
    history.append(feature)
    adaptive = torch.nn.functional.adaptive_max_pool2d if dims == 2 else torch.nn.functional.adaptive_max_pool3d
    for divisor in (2, 4, 8, 16):
        target = [-(-s // divisor) for s in size[:dims]]
        pooled = history.pooled(0, target)
        expected = adaptive(feature, target)
        assert torch.equal(pooled, expected)
        assert history.pooled(0, target) is pooled


def test_a_list_and_a_history_give_the_same():
    module, entries, x = build("2d larger, smaller, equal")
    history = History()
    for entry in entries:
        history.append(entry)
    assert len(history) == len(entries)
    assert torch.equal(module(history, x), module(entries, x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_was_read_without_gradients_does_not_change_those_of_later_readers(mode, compiled, kernel):
    module, entries, x = build("2d sizes that do not divide")
    want = torch.autograd.grad(module(entries, x).square().sum(), leaves(module, entries, x))
    history = History()
    for entry in entries:
        history.append(entry)
    torch.compiler.reset()
    reader = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
    with mode():
        if not compiled:  # they are for looking at a network
            module.routing_weights(history, x)
            module.mix_without([0], history, x)
        reader(history, x)
    got = torch.autograd.grad(reader(history, x).square().sum(), leaves(module, entries, x))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_copies_are_shared_without_gradients_as_well(kernel):
    module, entries, x = build("2d larger, smaller, equal")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            history = History()
            for entry in entries:
                history.append(entry * 1)
            module(history, x)
            assert len(history.levels) > len(history)


def test_query_initialisations():
    torch.manual_seed(0)
    queries = {name: XAttnRes([3], 1000, nn.Conv2d, query_init=name).query for name in
               ("zero", "random", "kaiming_uniform", "xavier_uniform")}  # fmt: skip
    assert not queries["zero"].any()
    assert queries["random"].std().item() == pytest.approx(0.02, rel=0.1)
    assert queries["kaiming_uniform"].abs().max().item() == pytest.approx((6 / 1000) ** 0.5, rel=0.02)
    assert queries["xavier_uniform"].abs().max().item() == pytest.approx((6 / 1001) ** 0.5, rel=0.02)
    with pytest.raises(ValueError, match=r"ones.*zero, random, kaiming_uniform, xavier_uniform"):
        XAttnRes([3], 4, nn.Conv2d, query_init="ones")


def test_names_of_its_parameters_and_what_projects():
    module = XAttnRes([4, 8, 16], 8, nn.Conv3d)
    assert [type(p) for p in module.projections] == [nn.Conv3d, nn.Identity, nn.Conv3d]
    assert set(module.state_dict()) == {"query", "norm_weight", "projections.0.weight", "projections.2.weight"}
    assert module.query.shape == module.norm_weight.shape == (8,)


def test_a_history_of_another_length_is_refused():
    module = XAttnRes([4, 8], 8, nn.Conv2d)
    with pytest.raises(ValueError, match="built for 2 history entries, called with 1"):
        module([torch.rand(1, 4, 8, 8)], torch.rand(1, 8, 8, 8))


@pytest.mark.parametrize(
    ("entry", "x", "message"),
    [
        ((1, 4, 8, 8), (1, 8, 8, 8), r"history entry 0 is \[1, 4, 8, 8\], expected \[1, 8, \.\.\.\]"),
        ((1, 8, 8, 8), (2, 8, 8, 8), r"history entry 0 is \[1, 8, 8, 8\], expected \[2, 8, \.\.\.\]"),
        ((1, 8, 8, 8), (1, 4, 8, 8), r"the current feature is \[1, 4, 8, 8\], expected \[1, 8, \.\.\.\]"),
    ],
)
def test_features_of_another_width_or_batch_are_refused(entry, x, message):
    """A compiled kernel would read beyond them."""
    module = XAttnRes([8], 8, nn.Conv2d)
    with pytest.raises(ValueError, match=message):
        module([torch.rand(entry)], torch.rand(x))
    torch.compiler.reset()
    with pytest.raises(Exception, match=message):  # torch.compile raises errors of its own
        torch.compile(module, backend="eager")([torch.rand(entry)], torch.rand(x))


def test_entries_in_another_order_are_refused():
    module, history = XAttnRes([8, 16], 16, nn.Conv2d), [torch.rand(1, 16, 8, 8), torch.rand(1, 8, 8, 8)]
    x = torch.rand(1, 16, 8, 8)
    torch.compiler.reset()
    for reader in (module, torch.compile(module, backend="eager")):
        with pytest.raises(Exception, match=r"history entry 0 is \[1, 16, 8, 8\], expected \[1, 8, \.\.\.\]"):
            reader(history, x)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"fast.*plain, numba, cuda"):
        use_kernel("fast")


def test_it_imports_torch_alone():
    source = Path(xattnres.__file__).read_text()
    imports = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imports - sys.stdlib_module_names == {"torch"}


@pytest.mark.parametrize("forced", ["numba", "cuda"])
def test_nothing_but_the_inputs_is_kept_for_the_backward_pass(forced):
    module, history, x = build("2d larger, smaller, equal", torch.float32)
    pools, history = history[:1], [entry * 1 for entry in history]
    inputs = {tensor.data_ptr() for tensor in [*pools, *history, x, *module.parameters()]}
    kept = []
    with use_kernel(forced), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        shared = History()
        for entry in history:
            shared.append(entry)
        out = module(shared, x)
    others = [tensor for tensor in kept if tensor.data_ptr() not in inputs]
    pooled = shared.pooled(0, x.shape[2:])  # kept once, for all readers
    assert {tuple(tensor.shape) for tensor in others} <= {tuple(pooled.shape), tuple(module.query.shape)}
    assert sum(tensor.shape == pooled.shape for tensor in others) == 1
    out.sum().backward()


@pytest.mark.parametrize("changed", ["history entry", "current feature", "query", "projection"])
def test_what_was_changed_in_place_is_no_silent_error(changed, kernel):
    module, history, x = build("2d larger, smaller, equal")
    history, x = [entry * 1 for entry in history], x * 1
    out = module(history, x)
    projection = next(module.projections[i] for i in range(3) if not isinstance(module.projections[i], nn.Identity))
    with torch.no_grad():
        place = {"history entry": history[-1], "current feature": x, "query": module.query}
        place.get(changed, getattr(projection, "weight", None)).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_forward_derivatives_are_those_of_the_reverse_mode(kernel):
    module, history, x = build("2d larger, smaller, equal")
    tangent = torch.randn_like(x)
    _, ours = torch.func.jvp(lambda x: module(history, x), (x.detach(),), (tangent,))
    upstream = torch.randn_like(ours)
    (reverse,) = torch.autograd.grad(module(history, x), x, upstream)
    torch.testing.assert_close((ours * upstream).sum(), (reverse * tangent).sum())
    for name, parameter in module.named_parameters():
        tangent = torch.randn_like(parameter)
        _, ours = torch.func.jvp(
            lambda value, name=name: torch.func.functional_call(module, {name: value}, (history, x)),
            (parameter.detach(),),
            (tangent,),
        )
        (reverse,) = torch.autograd.grad(module(history, x), parameter, upstream)
        torch.testing.assert_close((ours * upstream).sum(), (reverse * tangent).sum())


def test_it_is_traced(kernel):
    module, history, x = build("2d larger, smaller, equal")
    traced = torch.jit.trace(module, (history, x))
    torch.testing.assert_close(traced(history, x + 1), module(history, x + 1))


@pytest.mark.slow
def test_compiles_exports_and_checkpoints():
    module, history, x = build("2d larger, smaller, equal")
    expected = module(history, x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    out = compiled(history, x)
    torch.testing.assert_close(out, expected)
    want = torch.autograd.grad(expected.square().sum(), leaves(module, history, x))
    got = torch.autograd.grad(out.square().sum(), leaves(module, history, x))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    program = torch.export.export(module, (history, x), strict=False)  # as newer versions do by default
    assert not [node for node in program.graph.nodes if "xattnres" in str(node.target)]  # for programs without us
    exported = program.module()
    torch.testing.assert_close(exported(history, x), expected)
    recomputed = torch.utils.checkpoint.checkpoint(module, history, x, use_reentrant=False)
    again = torch.autograd.grad(recomputed.square().sum(), leaves(module, history, x))
    for a, b in zip(again, want, strict=True):
        torch.testing.assert_close(a, b)
