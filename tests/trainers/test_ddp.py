"""Two processes that train together (gloo on the CPU; nnU-Net's own several GPUs are for CUDA alone)."""

import os

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from phantom_plans import make_plans
from test_base import MODEL, RECIPE, Tiny, TinyPaper, train
from torch import distributed
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_xattnres.trainers import nnUNetTrainer_XAttnRes


class TinyTraining(Tiny):
    """Remembers training batches alone: of validation there are two whole images, again and again."""

    validation_step = nnUNetTrainer_XAttnRes.validation_step


def _train(rank, folder, trainer, plans, dataset_json):
    """One process: a whole training, and the same one stopped after its first epoch and continued."""
    os.environ |= {"nnUNet_n_proc_DA": "0", "XATTNRES_SEED": "7"}
    os.environ |= {f"nnUNet_{name}": str(folder / name) for name in ("preprocessed", "results")}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    stock.DDP = lambda network, device_ids: DistributedDataParallel(network)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network  # for CUDA alone

    def make():
        made = trainer(plans, "2d_both", 0, dataset_json)
        made.device, made.grad_scaler, made.seen = torch.device("cpu"), None, []
        made.logger.plot_progress_png = lambda folder: None
        return made

    whole = train(make())
    drawn = train(make(), stop_after=1)
    distributed.barrier()
    later = make()
    later.load_checkpoint(f"{later.output_folder}/checkpoint_latest.pth")
    weights = list(later.network.state_dict().values())
    drawn += train(later)
    torch.save({"whole": whole, "drawn": drawn, "weights": weights}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [TinyTraining, TinyPaper])
def test_each_process_is_seeded_for_itself_and_for_every_epoch(tmp_path, trainer):
    plans, dataset_json = make_plans(tmp_path, strides=[[1, 1]] * 3, recipe=RECIPE)
    mp.spawn(_train, (tmp_path, trainer, plans, dataset_json), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    for process in (first, second):
        assert process["whole"] == process["drawn"]  # continued or not
    if trainer is TinyTraining:  # the paper's recipe for one label draws whole images without augmentation
        drawn = [str(each) for process in (first, second) for each in process["whole"]]
        assert len(set(drawn)) == len(drawn) > 10  # none twice, in any epoch of any process
    assert all(torch.equal(*pair) for pair in zip(first["weights"], second["weights"], strict=True))
    checkpoint = torch.load(tmp_path / MODEL.format(trainer.__name__) / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
