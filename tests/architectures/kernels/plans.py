"""Readers of nnU-Net's plans: widths and sizes of the features as they come to the operator, and these without memory.

No kernel can run on such tensors: ``without_kernels`` puts others in the place of what starts them.
"""

import torch


def clinicdb():
    """The stages of nnU-Net's default ClinicDB plan, and its batch."""
    return 25, [(width, (320 >> i, 384 >> i)) for i, width in enumerate((32, 64, 128, 256, 512, 512, 512))]


def volume():
    """A 3D plan of six stages, and its batch."""
    return 2, [(width, (128 >> i,) * 3) for i, width in enumerate((32, 64, 128, 256, 320, 320))]


def readers(plan):
    """The entries of each reader: the earlier ones, pooled where they are larger, and the current feature."""
    batch, stages = plan()
    history = []
    for stage in [*stages, *stages[-2::-1]]:
        if history:
            yield batch, [(width, tuple(map(min, size, stage[1]))) for width, size in [*history, stage]]
        history.append(stage)


def inputs(batch, entries, dtype=torch.float16, memory_format=torch.contiguous_format):
    """Features, weights and query of a reader on the device that has no memory."""
    features = [
        torch.empty(batch, width, *size, dtype=dtype, device="meta", memory_format=memory_format)
        for width, size in entries
    ]
    width, ones = entries[-1][0], [1] * len(entries[-1][1])
    weights = [torch.empty(width, own, *ones, device="meta") for own, _ in entries if own != width]
    return features, weights, torch.empty(width, device="meta")
