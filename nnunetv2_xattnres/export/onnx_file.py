"""The network as an ONNX file, made of ONNX's own operators alone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.export.program import BATCH, IMAGE, LOGITS, reason, trace

NEEDED = ("onnx", "onnxscript")
STANDARD = {"", "ai.onnx"}
TOLERANCE = 1e-3  # of the largest logit
# one file of protocol buffers holds less than 2 GiB; larger weights are in a file beside it
SINGLE_FILE = 2**31 - 2**24
WEIGHTS_SUFFIX = ".data"
_OTHERS = "try newer versions of torch, onnxscript and onnxruntime"


def check_installed() -> None:
    """Check that the packages which write ONNX files are installed.

    Raises:
        InputError: they are not.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"ONNX files need {' and '.join(missing)}: pip install 'nnunetv2_xattnres[export]'")


def trace_and_convert(
    network: torch.nn.Module, channels: int, patch: Sequence[int]
) -> tuple[torch.export.ExportedProgram, Any, bool]:
    """The program and the ONNX model of a network, and whether they take any batch.

    They take a batch of one alone if this PyTorch cannot export the network otherwise, as 2.6 cannot with XAttnRes.

    Raises:
        InputError: the network cannot be exported at all.
    """
    try:
        program = trace(network, channels, patch)
        return program, convert(program), True
    except InputError:
        program = trace(network, channels, patch, any_batch=False)
        return program, convert(program), False


def convert(program: torch.export.ExportedProgram) -> Any:
    """The ONNX model of a program, with the opset that PyTorch's exporter chooses.

    Raises:
        InputError: PyTorch cannot convert it, or it has operators that are not ONNX's own.
    """
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=[IMAGE], output_names=[LOGITS]
            )
    except Exception as error:  # an operation without a translation
        raise InputError(f"PyTorch cannot convert this network to ONNX: {reason(error)}") from error
    model = exported.model_proto  # type: ignore[union-attr]
    if foreign := foreign_operators(model):
        raise InputError("The ONNX file would have operators that are not ONNX's own.", foreign)
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")  # traces of PyTorch's exporter, with files of this machine
    for value in (*graph.input, *graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.HasField("dim_value"):
            batch.dim_param = BATCH
    return model


def foreign_operators(model: Any) -> list[str]:
    """The operators of an ONNX model that are not ONNX's own, as ``domain::name``."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    own = {(function.domain, function.name) for function in model.functions}
    return sorted(
        {f"{n.domain}::{n.op_type}" for n in nodes if n.domain not in STANDARD and (n.domain, n.op_type) not in own}
    )


def opset(model: Any) -> int:
    """The version of ONNX's operators that a model needs."""
    return next(each.version for each in model.opset_import if each.domain in STANDARD)


def save_model(model: Any, path: Path) -> None:
    """Write the model; weights over 2 GiB go to a second file, which has to stay beside it."""
    import onnx

    external = model.ByteSize() > SINGLE_FILE
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}{WEIGHTS_SUFFIX}")


def compare(path: Path, network: torch.nn.Module, shape: tuple[int, ...]) -> float | None:
    """Run the file once in onnxruntime, on noise of ``shape``; ``None`` if onnxruntime is not installed.

    Returns:
        The largest difference to the network's logits, as a part of the largest logit.

    Raises:
        InputError: the difference is too large, or onnxruntime refuses the file.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.eval()(noise).numpy()
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {IMAGE: noise.numpy()})
    except Exception as error:  # onnxruntime has an error class for each of its codes
        raise InputError(f"onnxruntime cannot run the file that PyTorch made ({reason(error)}): {_OTHERS}") from error
    difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    if not difference <= TOLERANCE:  # also for NaN
        raise InputError(
            f"onnxruntime computes other logits than PyTorch (by {difference:.1g} of the largest): {_OTHERS}"
        )
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes about themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
