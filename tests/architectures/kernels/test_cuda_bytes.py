"""The bytes that the CUDA form reads and writes, counted from its calls on tensors without memory."""

import os
from importlib.util import find_spec

import pytest
import torch
from plans import clinicdb, inputs, readers, volume
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_xattnres.architectures.kernels import cuda

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is started here"),
]


def nbytes(tensors):
    return sum(min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes()) for tensor in tensors)


class Bytes(TorchDispatchMode):
    """Every tensor that an operation or a kernel reads or writes; views are free."""

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

    # ---- what the kernels move

    def plan_of(self, *arguments):
        from nnunetv2_xattnres.architectures.kernels.triton_reader import Plan

        self.plan = Plan(*arguments)
        return self.plan

    def elements(self, buffers):
        return sum(buffer.elements for buffer in buffers) * self.plan.images

    def mix(self, table, sizes, query, eps, out, full, small, channels_last):
        self.total += out.itemsize * self.elements(self.plan.forward[: full + small]) + nbytes([out])

    def differentiate(self, table, sizes, heights, query, eps, grad, full, small, gradients, channels_last):
        entries, gradients = self.plan.forward[: full + small], self.plan.backward[: full + small]
        pixels = grad.shape[0] * grad[0, 0].numel()
        numbers = 4 * pixels * (3 * (full + small) + 2)  # of each pixel, written by one kernel and read by the next
        self.total += grad.itemsize * self.elements([*entries, *entries[:full], *gradients[:full]]) + nbytes([grad])
        # each row of the gradient is read for each smaller entry, most often from the cache: counted once
        self.total += grad.itemsize * self.elements([*entries[full:], *gradients[full:]]) + nbytes([grad])
        self.total += 2 * numbers
        return torch.empty_like(query)

    def project(self, table, rows, group, C, like, weight, images, **layouts):
        for width, pixels, *_ in group.rows:
            self.total += (width + C) * pixels * images * like.itemsize + C * width * weight.itemsize

    def differentiate_weights(self, table, rows, group, C, like, partial, images, **layouts):
        for width, pixels, _, _, parts, _ in group.rows:
            self.total += (width + C) * pixels * images * like.itemsize + C * width * parts * partial.itemsize

    def sum_weights(self, table, rows, group, C, weight, partial, parts, stride):
        for width, _, splits, _ in group.rows:
            self.total += C * width * (splits * partial.itemsize + weight.itemsize)

    def shorten(self, table, rows, group, W, C, like, images, **layouts):
        self.total += sum(lines * (W + width) for lines, width, *_ in group.rows) * images * like.itemsize

    def write_table(self, table, addresses):
        self.total += nbytes([table])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("plan", [clinicdb, volume])
def test_at_most_two_and_a_half_times_what_must_be_moved(plan, channels_last, monkeypatch):
    from nnunetv2_xattnres.architectures.kernels import triton_mixture, triton_products, triton_reader

    counter = Bytes()
    for module, names in (
        (triton_mixture, ["mix", "differentiate"]),
        (triton_products, ["project", "differentiate_weights", "sum_weights", "shorten"]),
        (triton_reader, ["plan_of", "write_table"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(counter, name))
    monkeypatch.setattr(triton_reader, "CHUNK_BYTES", 1 << 40)  # all images at once
    monkeypatch.setattr(cuda, "triton_kernels", lambda module, x, takes: triton_reader)
    *_, (batch, entries) = readers(plan)
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if plan is clinicdb else torch.channels_last_3d
    features, weights, query = inputs(batch, entries, memory_format=memory_format)
    with counter:
        out = cuda.forward(features, weights, query, 1e-6)
        cuda.backward(torch.empty_like(out), features, weights, query, 1e-6)
    aligned = out.numel() * out.itemsize
    floor = (len(features) + 1) * aligned + (2 * len(features) + 1) * aligned
    assert floor / 4 < counter.total <= 2.5 * floor, counter.total / floor
