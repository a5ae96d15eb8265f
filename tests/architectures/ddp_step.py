"""One process of test_unet's DDP test: two optimiser steps of every variant, without ``find_unused_parameters``."""

import sys
from pathlib import Path

import torch
from test_unet import NETWORKS, build
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_xattnres.catalogue import routings

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
states = {}
for kind in NETWORKS:
    for variant in routings():
        network = build(kind, variant)
        parallel = DistributedDataParallel(network)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
        torch.manual_seed(rank)
        for _ in range(2):  # the second step fails where the first left a parameter without a gradient
            optimizer.zero_grad()
            sum(o.square().mean() for o in parallel(torch.randn(2, 2, 32, 32))).backward()
            optimizer.step()
        states[f"{kind} {variant}"] = network.state_dict()
torch.save(states, Path(sys.argv[1]) / f"{rank}.pt")
distributed.destroy_process_group()
