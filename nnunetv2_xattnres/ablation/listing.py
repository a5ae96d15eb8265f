"""Prints a study on the terminal: one line per event while it runs, and a table of its cells."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from threading import Lock

from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.study import State


def duration(hours: float | None) -> str:
    """``2 h 05 min``, ``12 min``, ``48 s``; empty for ``None``."""
    if hours is None:
        return ""
    seconds = round(hours * 3600)
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(hours * 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary(observations: Sequence[Observation]) -> str:
    """``16 cells: 7 complete, 1 running, 8 pending``."""
    counts = Counter(seen.state for seen in observations)
    parts = [f"{counts[state]} {state}" for state in State if counts[state]]
    return f"{len(observations)} cell{'s' * (len(observations) != 1)}: {', '.join(parts)}"


def table(observations: Sequence[Observation], width: int | None = None) -> str:
    """The cells with state, mean Dice, time and further details, cut to the terminal's width."""
    width = width or shutil.get_terminal_size((120, 24)).columns
    header = ("cell", "state", "Dice", "time", "")
    rows = [
        (
            seen.cell.name,
            seen.state,
            "" if seen.dice is None else f"{seen.dice:.4f}",
            duration(seen.record.get("hours")),
            " ".join(seen.detail.split()),
        )
        for seen in observations
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]

    def line(row: Sequence[str]) -> str:
        name, state, dice, time, detail = row
        cells = [name.ljust(widths[0]), state.ljust(widths[1]), dice.rjust(widths[2]), time.rjust(widths[3]), detail]
        text = "  ".join(cells).rstrip()
        return text if len(text) <= width else text[: width - 3] + "..."

    return "\n".join([line(header), "-" * min(width, sum(widths) + 6), *map(line, rows)])


class Events:
    """Prints the events of the cells, one line per event, from any thread.

    Args:
        total: Cells in the study.
        done: Cells that are complete already.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self._lock = total, done, Lock()

    def say(self, cell: Cell, text: str, done: bool = False) -> None:
        """Print one event; ``done`` counts the cell as complete."""
        with self._lock:
            self.done += done
            count = f"{self.done}/{self.total}".rjust(2 * len(str(self.total)) + 1)
            print(f"{datetime.now():%H:%M:%S}  [{count}]  {cell.name}: {text}", flush=True)
