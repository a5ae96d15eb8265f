"""``nnunetv2_xattnres bench``: what XAttnRes costs, against the same network without it and the literal equations."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from nnunetv2_xattnres.benchmark.cases import CASE_NAMES
from nnunetv2_xattnres.outputs import check_outputs, written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``bench``."""
    cases = ", ".join(CASE_NAMES)
    parser.add_argument("--case", nargs="+", choices=CASE_NAMES, metavar="CASE", help=f"{cases}; default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed rounds (default: 5)")
    parser.add_argument("--kernel", metavar="NAME", help="force a form of the mixture (plain, numba, cuda)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks, as nnU-Net does on CUDA")
    parser.add_argument("--no-literal", action="store_true", help="leave out the literal equations, which are slow")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="processor time of the process instead of wall-clock time: on a machine that is busy with other things",
    )
    parser.add_argument("--scaling", action="store_true", help="cost against stages, patch, width and history instead")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="with --scaling: draw it")
    parser.add_argument(
        "--check",
        action="store_true",
        help="for a new card (--device cuda): results against float64, which form ran, costs, and a short training",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="with --check: time for all of it (default: 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--overwrite", action="store_true", help="replace these files where they exist")


def run(args: argparse.Namespace) -> int:
    """Measure and print; every ratio is from rounds in which the forms take turns. Returns the exit code."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or PyTorch's profiler notes each of its starts between the rows
    import torch

    from nnunetv2_xattnres.benchmark import measure, scaling, tables

    measure.prepare(args)
    if args.check:
        from nnunetv2_xattnres.benchmark import check

        return check.run(args)
    check_outputs([args.plot, args.json], overwrite=args.overwrite)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = scaling.measure(args) if args.scaling else measure.measure(args)
    machine = measure.describe_machine(args)
    print(machine)
    print(scaling.table(rows) if args.scaling else tables.table(rows))
    if args.scaling and args.plot:
        with written(args.plot) as partial:
            scaling.plot(rows, partial)
        print(f"drawn: {args.plot}")
    if args.json:
        with written(args.json) as partial:
            partial.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2), encoding="utf-8")
        print(f"written: {args.json}")
    return 0
