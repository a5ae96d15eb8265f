"""The default form of every network goes where PyTorch's own operations go: ``torch.export``, ONNX and TorchScript."""

from functools import cache

import pytest
import torch
from packaging.version import Version
from test_compile import NETWORKS, build
from torch import nn

from nnunetv2_xattnres import catalogue
from nnunetv2_xattnres.architectures import comparators, use_kernel
from nnunetv2_xattnres.export.onnx_file import compare, save_model, trace_and_convert

SLOW = {"paper-unet", "emcad"}
OLD = Version(torch.__version__).release < (2, 7)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS])
def exported(request):
    """A network, an input, the output, and the exported program."""
    with torch.no_grad():
        yield _exported(request.param)


@cache
def _exported(name):
    """Once for all tests: tracing takes longest."""
    network, x = build(name, "both")
    network.eval().decoder.deep_supervision = False
    return network, x, network(x), torch.export.export(network, (x,), strict=False)


def ours(program):
    return [str(node.target) for node in program.graph.nodes if str(node.target).startswith("xattnres")]


def test_export(exported):
    _, x, expected, program = exported
    assert ours(program) == []
    torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_torchscript(exported):
    network, x, expected, _ = exported
    torch.testing.assert_close(torch.jit.trace(network, x)(x), expected)


def test_onnx(exported, tmp_path):
    pytest.importorskip("onnx", reason="torch.onnx.export needs onnx")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="the outputs are compared by onnxruntime")
    network, x, expected, program = exported
    if OLD and any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        pytest.skip("torch 2.6 cannot convert batch normalisation with an onnxscript that converts the other networks")
    file = tmp_path / "network.onnx"
    torch.onnx.export(program, (), str(file), dynamo=True)
    session = runtime.InferenceSession(str(file))
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)


def test_a_strict_export_is_free_of_our_operators_with_the_plain_form():
    network, x = build("unet 2d", "both")
    network.eval()
    with torch.no_grad(), use_kernel("plain"):
        program = torch.export.export(network, (x,), strict=True)
    assert ours(program) == []
    torch.testing.assert_close(program.module()(x), network(x))


# A conversion takes 15 s: there is one network for each kind of operation (resampling and pooling, windows with
# masks). The size is odd, and they pad it. The functions are the command's, which refuse operations of others.
@pytest.mark.slow
@pytest.mark.skipif(OLD, reason="torch 2.6 cannot convert batch normalisation")
@pytest.mark.parametrize("key", ["deeplabv3-plus", "mt-unet"])
def test_networks_that_the_paper_compares(key, tmp_path, monkeypatch):
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    # at each place one transformer module, and not two alike: their conversion takes most of the time
    monkeypatch.setattr(comparators.mt_unet, "_modules", comparators.mt_unet.MixedTransformer)
    torch.manual_seed(0)
    network = getattr(comparators, catalogue.NETWORKS[key].class_name.rpartition(".")[2])(3, 2).eval()
    program, model, any_batch = trace_and_convert(network, 3, (40, 33))
    save_model(model, tmp_path / "network.onnx")
    most = 3 if any_batch else 1
    x = torch.rand(most, 3, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)
    for batch in {1, most}:
        assert compare(tmp_path / "network.onnx", network, (batch, 3, 40, 33)) < 1e-4
