import pytest
import torch.distributed as dist


@pytest.fixture(scope="session")
def process_group(tmp_path_factory):
    """A group of one process: enough for DistributedDataParallel to find parameters without a gradient."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
