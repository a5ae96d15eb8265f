"""``nnunetv2_xattnres COMMAND``: imports the module of a command, runs it, and reports its errors.

Each module has ``add_arguments(parser)`` and ``run(args)``. It is imported only if the user types its command, because
torch takes seconds to import and some commands do not need it.
"""

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.system import escape_what_the_console_lacks, outliving_its_reader

# command: (module below nnunetv2_xattnres, help)
COMMANDS: dict[str, tuple[str, str]] = {
    "trainer-path": ("ext_trainer", "print the folder for the environment variable nnUNet_extTrainer"),
    "doctor": ("doctor", "check the installation, and print what to type for each problem"),
    "demo": ("demo", "train, predict and score on drawn images, in a few minutes on a CPU"),
    "convert": ("dataset_conversion.command", "convert a data set to nnU-Net's raw format"),
    "inspect": ("dataset_conversion.inspection", "check a raw data set: its cases, its splits and its masks"),
    "plan": ("plans.command", "write a plans file with the variants of an ablation study"),
    "warmstart": ("warmstart.command", "make a checkpoint for -pretrained_weights from that of another network"),
    "complexity": ("benchmark.complexity", "count parameters, multiply-accumulates and memory of each network"),
    "evaluate": ("evaluation.command", "compute Dice, IoU, HD95 and NSD per class and case"),
    "ablate": ("ablation.command", "run or continue an ablation study, locally or on SLURM, and write its report"),
    "routing": ("routing_maps.command", "show what each stage of a trained model listens to: maps, tables, a page"),
    "export": ("export.command", "write a trained model for programs without nnU-Net: ONNX and torch.export"),
    "bench": ("benchmark", "measure time and memory of networks with and without XAttnRes"),
}

# a full or read-only disk, or a full quota, can stop any command that writes: this is no bug
FULL = {number for name in ("ENOSPC", "EDQUOT", "EROFS") if (number := getattr(errno, name, None)) is not None}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser with all commands, and with the arguments of ``command``."""
    parser = argparse.ArgumentParser(
        prog="nnunetv2_xattnres", description="XAttnRes for nnU-Net v2: each stage reads all earlier stages."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help="COMMAND -h: its options")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == command:
            import_module(f"nnunetv2_xattnres.{module}").add_arguments(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 success, 2 unusable input, 130 interrupted)."""
    escape_what_the_console_lacks()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    try:
        with outliving_its_reader():
            args = build_parser(command).parse_args(arguments)
            return import_module(f"nnunetv2_xattnres.{COMMANDS[args.command][0]}").run(args) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        advice = "free space, or use another disk" if error.errno in FULL else "change that, or name another place"
        if error.errno not in FULL and not error.filename:
            raise
        where = f" {error.filename}:" if error.filename else ""
        print(f"error:{where} {error.strerror}: {advice}, and start again", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
