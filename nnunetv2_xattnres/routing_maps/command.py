"""``nnunetv2_xattnres routing``: which entries of the history a trained model listens to, on real cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_xattnres.arguments import parse_names
from nnunetv2_xattnres.system import interrupt, told_of
from nnunetv2_xattnres.trained_model import add_model_arguments, check_model_arguments, model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``routing``: those of ``nnUNetv2_predict``, and what to show."""
    parser.add_argument(
        "-i", dest="images", type=Path, required=True, metavar="FOLDER", help="folder of images, named as for nnU-Net"
    )
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="FOLDER", help="folder of the results, empty or new"
    )
    model = add_model_arguments(parser)
    model.add_argument(
        "-step_size",
        type=float,
        default=0.5,
        metavar="PART",
        help="step of the tiles, as a part of the patch (default: 0.5)",
    )
    model.add_argument("--disable_tta", action="store_true", help="do not mirror")
    model.add_argument(
        "-device", "--device", choices=("cuda", "cpu", "mps"), default="cuda", help="device (default: cuda)"
    )
    shown = parser.add_argument_group("what to show")
    shown.add_argument("--labels", type=Path, metavar="FOLDER", help="folder of reference masks, named as the cases")
    shown.add_argument("--cases", nargs="+", metavar="NAME", help="cases to show (default: all)")
    shown.add_argument("--stages", nargs="+", metavar="NAME", help='stages to show, such as "decoder 4" (default: all)')
    shown.add_argument(
        "--slice",
        type=int,
        metavar="N",
        help="slice of a volume in the pictures, from 0 (default: the one with most foreground)",
    )
    shown.add_argument("--heat-maps", action="store_true", help="draw the weight of each entry, too")
    shown.add_argument(
        "--knock-out", action="store_true",
        help="predict once more without each entry of each stage, and compare Dice: name a few --stages and --cases",
    )  # fmt: skip
    shown.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")


def run(args: argparse.Namespace) -> None:
    """Show the routing, and print where the page is."""
    check_model_arguments(args)

    from nnunetv2_xattnres.routing_maps.run import Request, show_routing

    request = Request(
        model=model_folder(args),
        images=args.images,
        output=args.output,
        folds=args.folds,
        checkpoint=args.checkpoint,
        step_size=args.step_size,
        mirroring=not args.disable_tta,
        device=args.device,
        labels=args.labels,
        cases=parse_names(args.cases, "--cases") if args.cases else None,
        stages=parse_names(args.stages, "--stages") if args.stages else None,
        slice=args.slice,
        heat_maps=args.heat_maps,
        knock_out=args.knock_out,
        overwrite=args.overwrite,
    )
    with told_of(("SIGTERM", "SIGHUP"), interrupt):  # what is half written goes then as well
        page = show_routing(request)
    print(f"wrote {page}")
