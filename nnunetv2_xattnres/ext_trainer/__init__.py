"""The folder for nnU-Net's hook ``nnUNet_extTrainer``, and the command that prints it.

nnU-Net imports every module in that folder under another name and then forgets it, so no class may be defined there.
``hook/`` has one module, which imports the trainers by their absolute names.
"""

import argparse
from pathlib import Path

HOOK_FOLDER = Path(__file__).parent / "hook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``trainer-path`` takes no arguments."""


def run(args: argparse.Namespace) -> None:
    """Print the folder, for ``export nnUNet_extTrainer="$(nnunetv2_xattnres trainer-path)"``."""
    print(HOOK_FOLDER)
