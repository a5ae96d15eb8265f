"""A data loader that returns every slice or image once per epoch, as in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from threadpoolctl import threadpool_limits


@dataclass(frozen=True)
class Share:
    """The part of each batch that one of several processes draws.

    Args:
        start: First position in the batch.
        size: Number of samples of this process.
        total: Number of samples in the whole batch.
    """

    start: int
    size: int
    total: int


class WholeImageLoader(SlimDataLoaderBase):
    """Batches of whole slices, each once per pass; samples from the start of a pass complete its last batch.

    A slice smaller than the patch is padded. A larger one is cropped, at a random place for training and in its middle
    for validation. Iteration never ends: one pass follows another. Except for the augmentation, the batches do not
    depend on the number of worker processes.

    Args:
        data: nnU-Net's preprocessed cases; ``[C, 1, H, W]`` for images, ``[C, Z, H, W]`` for volumes.
        share: The part of each batch that this process draws.
        patch_size: Height and width of the samples.
        transforms: Applied to each sample.
        shuffle: Use a new random order in each pass.
        seed: Seed of the orders.

    Yields:
        ``data`` ``[B, C, H, W]``, ``target`` ``[B, 1, H, W]`` (or a list), and ``keys``: case and slice of each sample.
    """

    def __init__(
        self,
        data: nnUNetBaseDataset,
        share: Share,
        patch_size: tuple[int, int],
        transforms: BasicTransform,
        *,
        shuffle: bool,
        seed: int = 0,
    ) -> None:
        super().__init__(data, share.size, None)
        self.share, self.patch_size, self.transforms = share, (1, *patch_size), transforms
        self.shuffle, self.seed = shuffle, seed
        self.shapes = {case: data.load_case(case)[0].shape[1:] for case in sorted(data.identifiers)}
        self.slices = [(case, z) for case, shape in self.shapes.items() for z in range(shape[0])]
        self.thread_id, self.threads = 0, 1
        self.next_batch = self.first_batch = 0

    def start_at(self, batch: int) -> None:
        """Start with this batch, counted over all passes, in a continued training."""
        self.next_batch = self.first_batch = batch

    @property
    def batches(self) -> int:
        """Number of batches per pass."""
        return -(-len(self.slices) // self.share.total)

    def larger_than_patch(self) -> int:
        """Number of cases that do not fit into the patch."""
        patch = self.patch_size[1:]
        return sum(
            any(have > want for have, want in zip(shape[1:], patch, strict=True)) for shape in self.shapes.values()
        )

    def set_thread_id(self, thread_id: int) -> None:
        """Tell the loader its worker process: worker w of W draws the batches w, w + W, w + 2W, and so on."""
        self.thread_id = thread_id
        self.next_batch = self.first_batch + thread_id
        # numpy is already seeded per worker, but torch's generator is a copy of the parent's
        torch.manual_seed(int(np.random.randint(2**31)))

    def keys_of(self, batch: int) -> list[tuple[str, int]]:
        """Case and slice of each sample of a batch, counted over all passes."""
        number, position = divmod(batch, self.batches)
        count = len(self.slices)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng((self.seed, number)).permutation(count)
        first = position * self.share.total + self.share.start
        return [self.slices[order[i % count]] for i in range(first, first + self.share.size)]

    def generate_train_batch(self) -> dict[str, Any]:
        """The next batch of this worker."""
        keys = self.keys_of(self.next_batch)
        self.next_batch += self.threads
        with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
            samples = [self._sample(case, z) for case, z in keys]
        images, targets = zip(*samples, strict=True)
        target = [torch.stack(group) for group in zip(*targets, strict=True)] if isinstance(targets[0], list) else None
        return {"data": torch.stack(images), "target": target or torch.stack(targets), "keys": keys}

    def _sample(self, case: str, z: int) -> tuple[torch.Tensor, Any]:
        image, mask, _, _ = self._data.load_case(case)
        size = image.shape[2:]
        lower = [z]
        for have, want in zip(size, self.patch_size[1:], strict=True):
            spare = have - want
            lower.append(np.random.randint(spare + 1) if spare > 0 and self.shuffle else spare // 2)
        box = [[low, low + length] for low, length in zip(lower, self.patch_size, strict=True)]
        data = torch.from_numpy(crop_and_pad_nd(image, box, 0)).float()[:, 0]
        segmentation = torch.from_numpy(crop_and_pad_nd(mask, box, -1, cast_cropped_to=np.int16)).to(torch.int16)[:, 0]
        sample = self.transforms(image=data, segmentation=segmentation)
        return sample["image"], sample["segmentation"]
