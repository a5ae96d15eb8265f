"""The CUDA form on a CPU, in processes of their own, as Triton's interpreter is chosen at import."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("cuda_checks.py")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def run(*checks, interpret):
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    done = subprocess.run([sys.executable, str(CHECKS), *checks], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_plain_torch_half_equals_the_equations():
    run("every_dtype", "large_values", "few_images_at_a_time", interpret="0")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_interpreted_kernels_equal_the_equations(dtype):
    run(dtype, interpret="1")


@needs_triton
@pytest.mark.slow
def test_the_interpreted_kernels_keep_large_values_and_pool_as_torch_does():
    run("large_values", "pooling", interpret="1")


@needs_triton
@pytest.mark.slow
def test_the_interpreted_kernels_take_a_large_batch_in_parts():
    run("few_images_at_a_time", interpret="1")


def test_pooling_without_triton_is_that_of_torch():
    run("pooling", interpret="0")


def test_without_triton_the_plain_torch_half_runs():
    run("without_triton", interpret="0")


@pytest.mark.parametrize("interpret", ["0", pytest.param("1", marks=needs_triton)])
def test_it_compiles_without_a_graph_break(interpret):
    run("compiles", interpret=interpret)
