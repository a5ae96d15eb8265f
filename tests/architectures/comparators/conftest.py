import pytest
import torch.distributed as dist


@pytest.fixture
def process_group(tmp_path):
    """A group of one process: enough for DistributedDataParallel to find parameters without a gradient.

    It ends with the test: where there is a group, nnU-Net's trainers take themselves for one of several on GPUs.
    """
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
