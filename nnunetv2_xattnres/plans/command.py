"""``nnunetv2_xattnres plan``: the ablation variants as configurations of one plans file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunetv2_xattnres.arguments import parse_names
from nnunetv2_xattnres.catalogue import NETWORKS, STUDIES, TRAINER
from nnunetv2_xattnres.nnunet_layout import dataset_number
from nnunetv2_xattnres.plans.files import VARIANT_PLANS, dataset_folder, not_preprocessed
from nnunetv2_xattnres.plans.studies import ALL, make_variants


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``plan``."""
    parser.add_argument("dataset", metavar="DATASET", help="number or name, e.g. 11 or Dataset011_ClinicDB")
    parser.add_argument(
        "-c", "--configuration", nargs="+", default=["2d"], metavar="NAME",
        help="configurations that the variants inherit from (default: 2d)",
    )  # fmt: skip
    parser.add_argument("-p", "--plans", default="nnUNetPlans", metavar="NAME", help="plans to read (nnUNetPlans)")
    parser.add_argument(
        "--variants", metavar="NAME", help=f"plans to write or to add to, in the same folder ({VARIANT_PLANS})"
    )
    parser.add_argument("-o", "--output", dest="former_variants", help=argparse.SUPPRESS)
    parser.add_argument(
        "--network", nargs="+", choices=[*NETWORKS, ALL], metavar="NAME",
        help=f"{', '.join(NETWORKS)}, or {ALL} (default: the network that the plans name)",
    )  # fmt: skip
    parser.add_argument(
        "--study", nargs="+", default=["all"], metavar="STUDY",
        help=f"{', '.join(STUDIES)}, or all (default: all but table2); backbone and table2 bring more networks",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", metavar="NAME",
        help="timm's name of the pretrained encoder; networks with a PVTv2 take pvt_v2_b0 to pvt_v2_b5 (pvt_v2_b2)",
    )  # fmt: skip
    parser.add_argument(
        "--encoder-weights", default="imagenet", metavar="WHAT",
        help="what our trainers load into the encoder: imagenet (default, from timm's hub), a file, or none",
    )  # fmt: skip
    parser.add_argument(
        "--input-size", nargs=2, type=int, metavar=("H", "W"),
        help="networks other than nnU-Net's resize their input to this size and their output back",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace existing plans to write, as a whole")


def run(args: argparse.Namespace) -> int:
    """Write the plans and print the training command of each configuration."""
    weights = None if args.encoder_weights.lower() == "none" else args.encoder_weights
    if weights not in (None, "imagenet"):
        weights = str(Path(weights).expanduser().resolve())
    if args.former_variants and not args.variants:
        print("note: -o is now called --variants", file=sys.stderr)
    output = args.variants or args.former_variants or VARIANT_PLANS
    variants = make_variants(
        args.dataset, args.configuration, args.plans, output, args.network, parse_names(args.study, "--study"),
        encoder=args.encoder, encoder_weights=weights, input_size=args.input_size, overwrite=args.overwrite,
    )  # fmt: skip
    variants.write()
    found, folder = variants.found, dataset_folder(args.dataset)
    print(f"{folder / output}.json: {len(found)} configurations, {args.plans} unchanged\n")
    number = dataset_number(folder.name)
    width = max(map(len, found))
    for name, cell in found.items():
        entry = NETWORKS[cell["network"]]
        own = entry.trainers.get(TRAINER, TRAINER if entry.encoder else None)
        trainer = f" -tr {own}" if own else ""
        print(f"nnUNetv2_train {number} {name:{width}} 0 -p {output}{trainer}".rstrip())
    print("\nAny trainer does (-tr nnUNetTrainer_XAttnRes shows progress); without -tr it is nnU-Net's own.")
    if any(NETWORKS[cell["network"]].encoder for cell in found.values()):
        print("Our trainers load the pretrained weights that the plans name; nnU-Net's own starts from random ones.")
        print('Our trainers need: export nnUNet_extTrainer="$(nnunetv2_xattnres trainer-path)"')
    for line in not_preprocessed(args.dataset, variants.plans, found, args.plans):
        print(f"\n{line}")
    return 0
