"""``nnunetv2_xattnres demo``: from drawn frames to a trained model, its predictions, its Dice and a picture of them.

Every step but the drawing is a stock nnU-Net command, printed as a user would type it. The three nnU-Net folders lie
below the output folder; no environment variable is needed and none is kept.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the demo writes, and what it computes on."""
    text = "folder to write (default: ./demo)"
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="FOLDER", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the folder of an earlier demo if it exists")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="device (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Run the demo; ends with the Dice, the model's folder and the picture's path."""
    from nnunetv2_xattnres.demo.steps import Settings, run_demo

    run_demo(args.output, Settings(device=args.device), overwrite=args.overwrite)
