"""``nnunetv2_xattnres bench``: compares networks with XAttnRes, without it, and with the literal equations."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from nnunetv2_xattnres.benchmark.cases import CASE_NAMES, CPU_CASES
from nnunetv2_xattnres.outputs import check_outputs, written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench``."""
    text = f"networks: {', '.join(CASE_NAMES)} (default: all; on a CPU the first {len(CPU_CASES)})"
    parser.add_argument("--case", nargs="+", choices=CASE_NAMES, metavar="CASE", help=text)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed rounds (default: 5)")
    parser.add_argument("--kernel", metavar="NAME", help="form of XAttnRes: plain, numba or cuda (default: automatic)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile, as nnU-Net does on GPUs")
    parser.add_argument("--no-literal", action="store_true", help="leave out the literal equations, which are slow")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="measure processor time instead of wall-clock time, for a machine that is busy with other work",
    )
    parser.add_argument("--scaling", action="store_true", help="measure growth with stages, patch, width, history")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="with --scaling: picture to write")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check a new GPU (with --device cuda): correctness, the form that runs, costs, and a short training",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="with --check: time limit in minutes (default: 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON file to write, with all figures")
    parser.add_argument("--overwrite", action="store_true", help="replace the files to write if they exist")


def run(args: argparse.Namespace) -> int:
    """Measure and print; in every round, the forms take turns. Returns the exit code."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else PyTorch's profiler logs each start between the rows
    import torch

    from nnunetv2_xattnres.benchmark import measure, scaling

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
    print(scaling.table(rows) if args.scaling else measure.table(rows))
    if args.json:  # before the picture: whatever stops that, the measurements are kept
        with written(args.json) as partial:
            partial.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2), encoding="utf-8")
        print(f"written: {args.json}")
    if args.plot:
        with written(args.plot) as partial:
            scaling.plot(rows, partial)
        print(f"drawn: {args.plot}")
    return 0
