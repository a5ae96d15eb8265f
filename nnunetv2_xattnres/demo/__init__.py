"""``nnunetv2_xattnres demo``: draws frames, trains a model on them, predicts, scores, and draws a picture.

Every step but the drawing is a stock nnU-Net command, printed as a user would type it. nnU-Net's three folders are in
the output folder; no environment variable is needed or changed.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``demo``."""
    text = "folder to write (default: ./demo)"
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="FOLDER", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the folder of an earlier demo if it exists")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="device (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Run the demo, and print the Dice, the model's folder and the picture's path at the end."""
    from nnunetv2_xattnres.demo.steps import Settings, run_demo

    run_demo(args.output, Settings(device=args.device), overwrite=args.overwrite)
