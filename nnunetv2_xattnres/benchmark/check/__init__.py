"""``bench --check``: checks on a GPU whether XAttnRes is correct, which form ran, and what it costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from nnunetv2_xattnres.benchmark.check.flow import Row, run_items, verdict
from nnunetv2_xattnres.benchmark.check.items import NETWORKS, items_for
from nnunetv2_xattnres.benchmark.check.room import room_here
from nnunetv2_xattnres.benchmark.check.table import tables
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.outputs import check_outputs, written

MINUTES = 6.0  # for all steps, on a fresh machine


def run(args: argparse.Namespace) -> int:
    """Check, print, and return the exit code: 0, or 1 if something is wrong, failed or did not end.

    Raises:
        InputError: the arguments cannot be used, or the device does not exist.
    """
    minutes = MINUTES if args.minutes is None else args.minutes
    if not minutes > 0:
        raise InputError(f"--minutes {minutes}: give more than 0")
    networks = list(NETWORKS) if args.case is None else args.case
    unknown = [name for name in networks if name not in NETWORKS]
    if unknown:
        raise InputError(f"--check measures {', '.join(NETWORKS)} and not {', '.join(unknown)}: leave --check out")
    check_outputs([args.json], overwrite=args.overwrite)
    kernel = args.kernel
    if args.device == "cpu":
        kernel = kernel or "cuda"
        print("A rehearsal on the CPU: tiny networks, and times that say nothing. On a GPU: --device cuda")
    room = room_here(args.device)
    items = items_for(args.device, kernel, networks, room.places)
    how = "one after the other" if room.places == 1 else f"up to {room.places} side by side"
    print(f"At most {minutes:g} minutes. Each item is a process of its own. They are prepared {how},")
    print("which is mostly compiling, and measured one after the other.", flush=True)
    rows: list[Row] = []
    try:
        for row in run_items(items, minutes * 60, room):
            rows.append(row)
            rows.sort(key=lambda one: items.index(one.item))
    except KeyboardInterrupt:  # keep the results of the first minutes
        print("\ninterrupted")
        _tell(rows, "Interrupted: what is not here was not done.", 130, args)
        raise
    text, code = verdict(rows)
    _tell(rows, text, code, args)
    return code


def _tell(rows: Sequence[Row], text: str, code: int, args: argparse.Namespace) -> None:
    """Print the tables, and write the JSON file."""
    print(f"{tables(rows)}\n\n{text}")
    if args.json:
        machine = next((row.outcome.figures["machine"] for row in rows if "machine" in row.outcome.figures), None)
        content = {"machine": machine, "verdict": text, "exit_code": code, "rows": [row.as_dict() for row in rows]}
        with written(args.json) as partial:
            partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
        print(f"written: {args.json}")
