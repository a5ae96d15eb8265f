"""``nnunetv2_xattnres warmstart``: a checkpoint for nnU-Net's ``-pretrained_weights`` from that of another network."""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_xattnres.catalogue import NETWORKS, TRAINER, VARIANTS
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import WEIGHTS_KEY, dataset_number
from nnunetv2_xattnres.outputs import check_outputs, written
from nnunetv2_xattnres.plans.files import dataset_folder, read_dataset_json, read_plans, resolve
from nnunetv2_xattnres.untrusted import check_architecture
from nnunetv2_xattnres.weights_files import read_weights

if TYPE_CHECKING:
    from torch import nn

OWN_KEY = "xattnres_warmstart"
FORMAT = 1
AVERAGE, STOCK = "average", "stock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``warmstart``."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="checkpoint of the network to start from (.pth)")
    text = "number or name of the data set to train on"
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help=text)
    parser.add_argument("-c", dest="configuration", required=True, metavar="CONFIGURATION", help="as for training")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="(default: nnUNetPlans)")
    text = f"the trainer to train with, which can choose the network (default: {TRAINER})"
    parser.add_argument("-tr", dest="trainer", default=TRAINER, metavar="TRAINER", help=text)
    text = "checkpoint to write, for nnUNetv2_train -pretrained_weights"
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="CHECKPOINT", help=text)
    parser.add_argument(
        "--start", choices=[AVERAGE, STOCK],
        help="stop unless the network starts in this way: with the average of its history, as in the paper, or as the "
        "stock network (default: either)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace CHECKPOINT if it exists")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint; print what it has from the source, and the command that trains with it."""
    check_outputs([args.output], overwrite=args.overwrite, inputs=[args.source])
    plans, dataset_json = read_plans(args.dataset, args.plans), read_dataset_json(args.dataset)
    resolve(plans, args.configuration)
    where = f"configuration {args.configuration} of {args.plans}"
    plans = _as_trained(args.trainer, plans, args.configuration, dataset_json)
    architecture = resolve(plans, args.configuration)["architecture"]
    check_architecture(architecture, where)
    start = _start_of(architecture)
    _check_start(args.start, start, architecture, where)
    source = read_weights(args.source)
    network = _build(plans, args.configuration, dataset_json, where)

    from nnunetv2_xattnres.warmstart import table, transfer

    found = transfer.compare(network, source)
    name = architecture["network_class_name"].rsplit(".", 1)[-1]
    if not transfer.is_useful(network, found):
        misfits = [f"{each.name} is {each.there} there and {each.here} here" for each in found.misfits[:3]]
        raise InputError(
            f"Nothing of {args.source} fits into the network of {where} ({name}): no kernel has the same name and the "
            "same shape. Name a checkpoint of a network with the same layers",
            misfits,
        )
    _load_missing_encoder(network, found)
    transfer.copy(network, source, found)
    _save(args.output, network, args.source, found)

    print(f"{args.source} into {name} ({where}, {args.trainer})\n")
    print("\n".join(table.lines(found)))
    print(f"\n{table.summary(found)}")
    print(_first_outputs(start, found))
    print("nnU-Net does not load segmentation layers (.seg_layers.) by -pretrained_weights: they are new in any case.")
    number = dataset_number(dataset_folder(args.dataset).name)
    print(
        f"\n{args.output}: nnUNetv2_train {number} {args.configuration} 0 -p {args.plans} -tr {args.trainer} "
        f"-pretrained_weights {shlex.quote(str(args.output))}"
    )
    return 0


def _as_trained(trainer: str, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> dict:
    """The plans as the trainer changes them; nnU-Net's own trainers leave them as they are.

    Raises:
        InputError: the trainer does not exist, or cannot train the configuration.
    """
    from nnunetv2_xattnres import trainers

    if trainer in trainers.__all__:
        own = getattr(trainers, trainer)
        # the network depends on the plans alone, and an initialised trainer makes folders
        return object.__new__(own).adapt_plans(deepcopy(plans), configuration, dataset_json)
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            recursive_find_trainer_class_by_name(trainer)
    except RuntimeError as error:
        raise InputError(f"no trainer {trainer}: give the name that you will give to nnUNetv2_train -tr") from error
    return plans


def _start_of(architecture: dict[str, Any]) -> str | None:
    """How the planned network starts; ``None`` for a network without XAttnRes."""
    from nnunetv2_xattnres.architectures.routing import Routing
    from nnunetv2_xattnres.plans.architecture import is_ours

    kwargs = architecture["arch_kwargs"]
    places = next((each.places for each in NETWORKS.values() if each.class_name == architecture["network_class_name"]),
                  ("decoder",))  # fmt: skip
    if not is_ours(architecture) or not places:
        return None
    try:
        routing = Routing.parse(kwargs.get("routing"))
    except ValueError as error:
        raise InputError(f"the plans cannot be used: {error}") from error
    if not (routing.encoder or routing.decoder):
        return None
    return STOCK if routing.stock_start else AVERAGE


def _check_start(asked: str | None, start: str | None, architecture: dict[str, Any], where: str) -> None:
    """Check that the planned network starts as the user expects.

    Raises:
        InputError: it does not; the message says what to type.
    """
    if asked is None or start == asked:
        return
    network = next((n for n in NETWORKS.values() if n.class_name == architecture["network_class_name"]), None)
    routing = architecture["arch_kwargs"].get("routing") or {}
    if start is None:
        raise InputError(f"the network of {where} has no XAttnRes, and so no start to choose: leave --start out")
    if asked == AVERAGE:
        raise InputError(
            f"the network of {where} starts as the stock network: choose another configuration or -tr {TRAINER}, or "
            "leave --start out"
        )
    if not routing.get("skip_connections", True) or (network is not None and network.replaces):
        raise InputError(
            f"the network of {where} cannot start as the stock network, which has skip connections: choose a routing "
            "that keeps them (both), or --start average"
        )
    raise InputError(
        f"the network of {where} starts with the average of its history. For the other start give -tr "
        f"nnUNetTrainer_XAttnRes_StockStart with nnU-Net's plans, or plan it with `nnunetv2_xattnres plan --study "
        f"start` and give that configuration (NAME_{VARIANTS['stock_start'].key})"
    )


def _build(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], where: str) -> nn.Module:
    """The network as nnU-Net builds it for a training, with its new weights; ``XATTNRES_SEED`` seeds them.

    Raises:
        InputError: it cannot be built.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_xattnres.trainers.seeding import Purpose, seed_everything, seed_of_environment

    if (seed := seed_of_environment()) is not None:
        seed_everything(seed, 0, Purpose.BUILD)
    manager = PlansManager(plans)
    planned = manager.get_configuration(configuration)
    try:
        return get_network_from_plans(
            planned.network_arch_class_name,
            planned.network_arch_init_kwargs,
            planned.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, planned, dataset_json),
            manager.get_label_manager(dataset_json).num_segmentation_heads,
            allow_init=True,
            deep_supervision=True,
        )
    except Exception as error:  # the user reads every error of a network's constructor
        raise InputError(f"the network of {where} does not build ({type(error).__name__}: {error})") from error


def _load_missing_encoder(network: nn.Module, found: Any) -> None:
    """Load the pretrained encoder that the plans name, if the source does not have it.

    The checkpoint replaces what our trainers load, so it must not hold random numbers there.
    """
    missing = [name for name in (*found.new, *(each.name for each in found.misfits)) if name.startswith("encoder.")]
    if missing:
        from nnunetv2_xattnres.trainers.base import load_pretrained_encoder

        load_pretrained_encoder(network, print)


def _save(path: Path, network: nn.Module, source: Path, found: Any) -> None:
    import torch

    note = {
        "format": FORMAT,
        "source": source.name,
        "taken": list(found.taken),
        "new": found.new,
        "did_not_fit": [each.name for each in found.misfits],
    }
    with written(path) as partial:
        try:
            torch.save({WEIGHTS_KEY: network.state_dict(), OWN_KEY: note}, partial)
        except RuntimeError as error:  # torch's writer, for example when the disk is full
            raise InputError(f"{path} cannot be written ({error})") from error


def _first_outputs(start: str | None, found: Any) -> str:
    """What the network computes before any training, as far as the names of the weights tell."""
    own = [name for name in found.sizes if "xattnres." in name]
    taken = [name for name in own if name in found.taken]
    if start == AVERAGE and not taken:
        return (
            "Start: average. Each stage begins with the average of its history, so the first outputs are not those of "
            "the source."
        )
    new = [name for name in (*found.new, *(each.name for each in found.misfits)) if "xattnres." not in name]
    left = [name for name in found.left if ".seg_layers." not in name]
    differences = [
        *([f"{len(new)} tensors are new outside of XAttnRes"] if new else []),
        *([f"{len(own) - len(taken)} of XAttnRes are new"] if 0 < len(taken) < len(own) else []),
        *([f"{len(left)} of the source are not needed"] if left else []),
    ]
    if differences:
        return f"Start: {', '.join(differences)}, so the outputs are not those of the source."
    return (
        "Start: the outputs of the checkpoint are those of the source, if both networks also agree in what has no "
        "weights, such as activations."
    )
