"""The folder that nnU-Net's hook ``nnUNet_extTrainer`` points at, and the command that prints it.

nnU-Net imports every module below that folder by a name of its own and forgets it again, so nothing may be defined
there: ``hook/`` holds one module, which imports the trainers by their absolute name.
"""

import argparse
from pathlib import Path

HOOK_FOLDER = Path(__file__).parent / "hook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``trainer-path`` takes no arguments."""


def run(args: argparse.Namespace) -> None:
    """Print the folder, for ``export nnUNet_extTrainer="$(nnunetv2_xattnres trainer-path)"``."""
    print(HOOK_FOLDER)
