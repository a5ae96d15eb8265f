"""``nnunetv2_xattnres COMMAND``: finds the module of a command, gives it the arguments, reports its errors.

Each module offers ``add_arguments(parser)`` and ``run(args)``; it is imported only when its command is typed, so that
the light commands stay light (torch takes seconds to import).
"""

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.system import escape_what_the_console_lacks

# command: (module below nnunetv2_xattnres, help)
COMMANDS: dict[str, tuple[str, str]] = {
    "trainer-path": ("ext_trainer", "print the folder for nnUNet_extTrainer"),
    "doctor": ("doctor", "check this installation and say what to type where something is missing"),
    "demo": ("demo", "phantom data, training, prediction and score on the CPU in a few minutes"),
    "convert": ("dataset_conversion.command", "convert a data set to nnU-Net raw format"),
    "inspect": ("dataset_conversion.inspection", "check a converted data set, its splits and its masks"),
    "plan": ("plans.command", "write a plans file with the ablation variants"),
    "complexity": ("plans.complexity", "parameters, multiply-accumulates and memory of every network and routing"),
    "evaluate": ("evaluation.command", "Dice, IoU and HD95 per class and case"),
    "ablate": ("ablation.command", "run, resume and report a grid of trainings, locally or on SLURM"),
    "routing": ("routing_maps.command", "maps and tables of what each stage of a trained model listens to"),
    "bench": ("benchmark", "time and memory against the network without XAttnRes and the literal equations"),
}

# a full disk or quota, or one that is read-only, can stop any command that writes: never a fault of the program
FULL = {number for name in ("ENOSPC", "EDQUOT", "EROFS") if (number := getattr(errno, name, None)) is not None}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser with every command listed, and the arguments of ``command`` filled in."""
    parser = argparse.ArgumentParser(
        prog="nnunetv2_xattnres", description="XAttnRes for nnU-Net v2: learned routing between stages."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
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
    args = build_parser(command).parse_args(arguments)
    module = import_module(f"nnunetv2_xattnres.{COMMANDS[args.command][0]}")
    try:
        return module.run(args) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head` closed the pipe: not an error of ours
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" {error.filename}:" if error.filename else ""
        print(f"error:{where} {error.strerror}: free space, or use another disk, and start again", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
