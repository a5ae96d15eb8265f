"""What tuning the Triton kernels leaves behind, without a GPU."""

import os
from importlib.util import find_spec

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not tuned"),
]


class Started:
    """Stands for a kernel, and keeps the constants that it was started with."""

    def __init__(self, best=None):
        self.best_config, self.calls = best, []

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.calls.append(constants)


def test_the_tuner_is_asked_once_and_its_tile_is_used_from_then_on(monkeypatch):
    import triton

    from nnunetv2_xattnres.architectures.kernels import triton_launch
    from nnunetv2_xattnres.architectures.kernels.triton_launch import Tile, launch

    tiles = Tile(4, BLOCK=32), Tile(8, 168, BLOCK=64)
    tuner, kernel = Started(triton.Config(tiles[1].constants, **tiles[1].options)), Started()
    monkeypatch.setattr(triton_launch, "_tuned", lambda *_: tuner)
    monkeypatch.setattr(triton_launch, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    call = kernel, tiles, lambda tile: (1,), (), {"C": 32}
    ran = [launch(*call, torch.empty(1)) for _ in range(3)]
    assert ran == [tiles[1]] * 3
    assert tuner.calls == [{"C": 32}]
    assert kernel.calls == [{"C": 32, "BLOCK": 64, "num_warps": 8, "maxnreg": 168}] * 2
    launch(*call, torch.empty(1, dtype=torch.float16))
    launch(*call, torch.empty(1), {"K": 3})
    assert len(tuner.calls) == 3  # another dtype is tuned by itself, and so is what the tile depends on


def test_what_a_tile_depends_on_can_be_kept_on_disk(monkeypatch):
    """Triton writes the key as JSON, which knows no dtypes."""
    import triton

    from nnunetv2_xattnres.architectures.kernels import triton_launch
    from nnunetv2_xattnres.architectures.kernels.triton_launch import Tile, launch

    keys = []
    tuner = Started(triton.Config({"BLOCK": 64}, num_warps=8))
    monkeypatch.setattr(triton_launch, "_tuned", lambda kernel, tiles, key: keys.append(key) or tuner)
    monkeypatch.setattr(triton_launch, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tiles = Tile(4, BLOCK=32), Tile(8, BLOCK=64)
    constants = {"LAST": True, "EXACT": torch.float32}
    launch(Started(), tiles, lambda tile: (1,), (), constants, torch.empty(1), {"C": 32})
    assert keys == [("LAST", "C")]


def test_nothing_is_tuned_while_a_cuda_graph_is_captured(monkeypatch):
    from nnunetv2_xattnres.architectures.kernels import triton_launch
    from nnunetv2_xattnres.architectures.kernels.triton_launch import Tile, launch

    kernel = Started()
    monkeypatch.setattr(triton_launch, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    tiles = Tile(4, BLOCK=32), Tile(8, BLOCK=64)
    assert launch(kernel, tiles, lambda tile: (1,), (), {}, torch.empty(1)) == tiles[0]
    assert kernel.calls == [{"BLOCK": 32, "num_warps": 4}]


@pytest.mark.parametrize("ran", [0, 1])
def test_the_querys_gradient_sums_what_the_tile_that_ran_has_written(ran, monkeypatch):
    """There is room for the tile with most programs: the rest of it was never written."""
    from nnunetv2_xattnres.architectures.kernels import triton_mixture

    def launch(kernel, tiles, grid, arguments, constants, like):
        tile = tiles[min(ran, len(tiles) - 1)]
        partial = arguments[6]
        programs = grid(tile.constants)[0] * grid(tile.constants)[1]
        partial.fill_(float("nan"))
        partial[: programs * 32] = 1
        total.append(programs)
        return tile

    total = []
    monkeypatch.setattr(triton_mixture, "launch", launch)
    table = sizes = torch.empty(0)
    grad = torch.empty(2, 32, 6, 100, dtype=torch.float16)
    of_query = triton_mixture.differentiate(table, sizes, 5, torch.zeros(32), 1e-6, grad, 1, 2, 3, False)
    assert of_query.tolist() == [sum(total)] * 32
