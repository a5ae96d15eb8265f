"""``nnunetv2_xattnres convert NAME SOURCE``: one sub-command per data set."""

import argparse

from nnunetv2_xattnres.dataset_conversion.base import Dataset, add_common_arguments, run_conversion
from nnunetv2_xattnres.dataset_conversion.clinicdb import ClinicDB
from nnunetv2_xattnres.dataset_conversion.colondb import ColonDB
from nnunetv2_xattnres.dataset_conversion.isic2017 import ISIC2017
from nnunetv2_xattnres.dataset_conversion.synapse import Synapse

DATASETS: tuple[type[Dataset], ...] = (ClinicDB, ColonDB, ISIC2017, Synapse)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one sub-parser per data set."""
    commands = parser.add_subparsers(dest="dataset", metavar="NAME", required=True, help="NAME -h: layout and options")
    for dataset in DATASETS:
        sub = commands.add_parser(dataset.key, help=dataset.description)
        add_common_arguments(sub, dataset)
        sub.set_defaults(dataset_class=dataset)


def run(args: argparse.Namespace) -> int:
    """Convert, print the summary."""
    return run_conversion(args, args.dataset_class)
