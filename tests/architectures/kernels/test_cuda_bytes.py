"""The bytes that the CUDA form reads and writes, counted from its calls on tensors without memory."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_xattnres.architectures.kernels import cuda


def nbytes(tensors):
    return sum(min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes()) for tensor in tensors)


class Bytes(TorchDispatchMode):
    """Every tensor that an operation reads or writes; views are free."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = [a for a in torch.utils._pytree.tree_leaves((args, kwargs or {})) if isinstance(a, torch.Tensor)]
        outputs = [a for a in torch.utils._pytree.tree_leaves(out) if isinstance(a, torch.Tensor)]
        places = {tensor.untyped_storage()._cdata for tensor in inputs}
        written = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in places]
        if "empty" not in func.__name__ and (written or func._schema.is_mutable):
            self.total += nbytes([*inputs, *written])
        return out

    def mix(self, full, small, heights, query, eps, out):
        self.total += nbytes([*full, *small, out])

    def differentiate(self, full, small, heights, query, eps, grad, full_gradients):
        gradients = [torch.empty_like(entry) for entry in small]
        pixels = grad.shape[0] * grad[0, 0].numel()
        numbers = 4 * pixels * (3 * len(small) + 2)  # of each pixel, written by one kernel and read by the next
        self.total += nbytes([*full, *full, *small, grad, *full_gradients]) + numbers
        # each row of the gradient is read for each smaller entry, most often from the cache: counted once
        self.total += nbytes([*small, grad, *gradients]) + numbers
        return torch.empty_like(query), gradients


def clinicdb():
    """The top stage of nnU-Net's default ClinicDB plan: 13 entries."""
    widths = [32, 64, 128, 256, 512, 512, 512]
    sizes = [(320 >> stage, 384 >> stage) for stage in range(7)]
    return 25, [*zip(widths, sizes, strict=True), *zip(widths[-2:0:-1], sizes[-2:0:-1], strict=True), (32, sizes[0])]


def volume():
    widths = [32, 64, 128, 256, 320, 320]
    sizes = [(128 >> stage,) * 3 for stage in range(6)]
    return 2, [*zip(widths, sizes, strict=True), *zip(widths[-2:0:-1], sizes[-2:0:-1], strict=True), (32, sizes[0])]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stage", [clinicdb, volume])
def test_at_most_two_and_a_half_times_what_must_be_moved(stage, channels_last, monkeypatch):
    batch, entries = stage()
    counter = Bytes()
    kernels = SimpleNamespace(mix=counter.mix, differentiate=counter.differentiate)
    monkeypatch.setattr(cuda, "triton_kernels", lambda module, x: kernels)
    memory_format = (torch.channels_last if stage is clinicdb else torch.channels_last_3d) if channels_last else None
    features = [torch.empty(batch, width, *size, dtype=torch.float16, device="meta") for width, size in entries]
    if memory_format:
        features = [feature.contiguous(memory_format=memory_format) for feature in features]
    width = features[-1].shape[1]
    weights = [torch.empty(width, f.shape[1], device="meta") for f in features if f.shape[1] != width]
    query = torch.empty(width, device="meta")
    with counter:
        out = cuda.forward(features, weights, query, 1e-6)
        cuda.backward(torch.empty_like(out), features, weights, query, 1e-6)
    aligned = out.numel() * out.itemsize
    floor = (len(features) + 1) * aligned + (2 * len(features) + 1) * aligned
    assert floor / 4 < counter.total <= 2.5 * floor, counter.total / floor
