"""Runs the items of the check one after the other, each in its own process, until the time is over."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2_xattnres.benchmark.check.items import CORRECTNESS, Item
from nnunetv2_xattnres.benchmark.check.process import DONE, FAILED, TOO_LONG, WRONG, Outcome, run_apart
from nnunetv2_xattnres.nnunet_layout import FOLDERS
from nnunetv2_xattnres.system import interrupt, told_of

NOT_MEASURED = "not measured"
FAILURES = (WRONG, FAILED, TOO_LONG)  # running out of the GPU's memory is not a failure


@dataclass
class Row:
    """An item and its outcome."""

    item: Item
    outcome: Outcome

    def as_dict(self) -> dict[str, object]:
        """The row as a dictionary for JSON."""
        return {"name": self.item.name, "arguments": dict(self.item.arguments), **asdict(self.outcome)}


def run_items(items: Sequence[Item], budget: float) -> Iterator[Row]:
    """Run ``items`` within ``budget`` seconds and print a line per item; leaves no files on the disk.

    An item that is not started also has a row, which gives the reason: no time is left, or an item before it failed.
    """
    start = time.monotonic()
    states: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="xattnres-check-", ignore_cleanup_errors=True) as name,
        told_of(("SIGTERM", "SIGHUP"), interrupt),
    ):
        for number, item in enumerate(items):
            spent = time.monotonic() - start
            print(f"[{spent:3.0f} s] {item.name} … ", end="", flush=True)
            outcome = _stopped(item, states, budget - spent) or _run(item, Path(name), number, budget - spent)
            states[item.name] = outcome.state
            print(_line(outcome), flush=True)
            yield Row(item, outcome)


def _stopped(item: Item, states: Mapping[str, str], left: float) -> Outcome | None:
    """The reason not to start an item, or ``None``."""
    for name in item.after:
        if states.get(name, DONE) != DONE:
            why = "; only what is known to be right is timed" if name == CORRECTNESS else ""
            return Outcome(NOT_MEASURED, f"{name} is: {states[name]}{why}")
    if left < max(item.needs, 1):
        return Outcome(
            NOT_MEASURED, f"time is up ({max(left, 0):.0f} s left, {item.needs:.0f} s needed): give more --minutes"
        )
    return None


def _run(item: Item, folder: Path, number: int, left: float) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    # compilers start with empty caches, as on a fresh machine, and tunings for small tensors are not kept
    caches = folder / f"caches-{number}"
    environment |= {
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "KINETO_LOG_LEVEL": "99",
    }
    if item.folders:
        for name in FOLDERS:
            environment[name] = str(folder / name)
            (folder / name).mkdir(exist_ok=True)
    outcome = run_apart(
        item.function, item.arguments, min(item.limit, left), folder / str(number), environment | dict(item.environment)
    )
    if outcome.state == TOO_LONG and left < item.limit:  # perhaps it does not hang but had too little time
        outcome.state, outcome.message = NOT_MEASURED, f"time is up: stopped after {outcome.seconds:.0f} s"
    return outcome


def _line(outcome: Outcome) -> str:
    text = outcome.state + (f": {outcome.message}" if outcome.message else "")
    return f"{text}, {outcome.seconds:.0f} s" if outcome.seconds else text


def verdict(rows: Sequence[Row]) -> tuple[str, int]:
    """The last line, and the exit code: 1 if something is wrong, failed or did not end."""
    failed = [
        f"{row.item.name} ({row.outcome.state})"
        for row in rows
        if row.outcome.state in FAILURES or (row.item.name == CORRECTNESS and row.outcome.state != DONE)
    ]
    done = sum(row.outcome.state == DONE for row in rows)
    if failed:
        return f"FAILED: {', '.join(failed)}", 1
    if done == len(rows):
        return f"All {done} items are done, and none is wrong.", 0
    return f"{done} of {len(rows)} items are done, and none is wrong. The others say why they are not.", 0
