"""Prepares the items of the check side by side, each in its own process, and measures one after the other.

Compilers take nearly all of the time, and use the host. Therefore an item builds its networks and takes its first steps
as soon as there is room. Then it waits for its turn. During a turn, all other processes are paused.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from nnunetv2_xattnres.benchmark.check.items import CORRECTNESS, Item
from nnunetv2_xattnres.benchmark.check.process import (
    BUSY,
    CAN_PAUSE,
    DONE,
    FAILED,
    NO_MEMORY,
    TOO_LONG,
    WRONG,
    Apart,
    Outcome,
)
from nnunetv2_xattnres.benchmark.check.room import Room
from nnunetv2_xattnres.nnunet_layout import FOLDERS
from nnunetv2_xattnres.system import interrupt, told_of

NOT_MEASURED = "not measured"
FAILURES = (WRONG, FAILED, TOO_LONG, BUSY)  # running out of the GPU's memory is not a failure
LOOK_SECONDS = 0.05  # between two looks at the processes
CALM_SECONDS = 0.5  # after a pause: the GPU ends what was launched before it


@dataclass
class Row:
    """An item and its outcome."""

    item: Item
    outcome: Outcome

    def as_dict(self) -> dict[str, object]:
        """The row as a dictionary for JSON."""
        return {"name": self.item.name, "arguments": dict(self.item.arguments), **asdict(self.outcome)}


@dataclass
class _Running:
    """An item whose process runs, and whether others ran at the same time."""

    item: Item
    process: Apart
    company: bool


def run_items(items: Sequence[Item], budget: float, room: Room) -> Iterator[Row]:
    """Run ``items`` within ``budget`` seconds and print when each begins and ends; leaves no files on the disk.

    The rows come as the items end. An item that is not measured also has a row, which gives the reason: no time is
    left, or an item before it failed.

    Args:
        items: The items, the most important first: in this order they are started, and get their turns.
        budget: Seconds for all.
        room: How many are prepared at once.
    """
    with (
        tempfile.TemporaryDirectory(prefix="xattnres-check-", ignore_cleanup_errors=True) as name,
        told_of(("SIGTERM", "SIGHUP"), interrupt),
    ):
        flow = _Flow(items, budget, room, Path(name))
        try:
            while flow.goes_on():
                yield from flow.look()
                time.sleep(LOOK_SECONDS)
        finally:
            flow.stop()


class _Flow:
    """The items that are pending, those that run, and the states of those that have ended."""

    def __init__(self, items: Sequence[Item], budget: float, room: Room, folder: Path) -> None:
        self._start, self._budget, self._room, self._folder = time.monotonic(), budget, room, folder
        self._order, self._pending = list(items), list(items)
        self._running: list[_Running] = []
        self._states: dict[str, str] = {}
        self._alone: set[str] = set()  # names of those for which the GPU had no room beside others
        self._numbers = count()

    def goes_on(self) -> bool:
        """Whether an item has not ended."""
        return bool(self._pending or self._running)

    def look(self) -> Iterator[Row]:
        """Collect what has ended or must end, then give a turn or begin with the next items."""
        for running in [one for one in self._running if one.process.ended()]:
            yield from self._collect(running)
        for running in list(self._running):
            outcome = self._ended_early(running)
            if outcome:
                self._running.remove(running)
                yield self._row(running.item, outcome)
        for item in list(self._pending):
            outcome = self._not_begun(item)
            if outcome:
                self._pending.remove(item)
                yield self._row(item, outcome)
        if not self._give_turn():
            self._begin()

    def stop(self) -> None:
        """End all processes."""
        for running in self._running:
            running.process.kill()
        for running in self._running:
            running.process.outcome()

    def _collect(self, running: _Running) -> Iterator[Row]:
        """The row of an item whose process has ended, unless it is tried again."""
        self._running.remove(running)
        outcome, name = running.process.outcome(), running.item.name
        if outcome.state in (NO_MEMORY, BUSY) and running.company:
            self._alone.add(name)
            self._pending.append(running.item)
            self._print(f"{name}: {outcome.state} beside others; once more alone, at the end")
        else:
            yield self._row(running.item, outcome)

    def _ended_early(self, running: _Running) -> Outcome | None:
        """The outcome of a process that had to be ended, or ``None``."""
        item, process = running.item, running.process
        reason = self._refused(item)
        if reason:
            process.outcome()  # what is wrong is not timed, so that its first figures are not shown either
            return Outcome(NOT_MEASURED, reason)
        if self._left() <= 0:
            how = "ready, but without its turn," if process.waits() else "stopped"
            return process.outcome(NOT_MEASURED, f"time is up: {how} after {process.seconds:.0f} s")
        if process.seconds_of_turn > item.turn_limit:
            return process.outcome(TOO_LONG, f"no end within {item.turn_limit:.0f} s of its turn: stopped")
        if process.seconds > item.limit and not process.has_turn:
            return process.outcome(TOO_LONG, f"no end within {item.limit:.0f} s: stopped")
        return None

    def _not_begun(self, item: Item) -> Outcome | None:
        """The reason not to begin with an item, or ``None``."""
        reason, left = self._refused(item), self._left()
        if not reason and left < max(item.needs, 1):
            reason = f"time is up ({max(int(left), 0)} s left, {item.needs:.0f} s needed): give more --minutes"
        return Outcome(NOT_MEASURED, reason) if reason else None

    def _refused(self, item: Item) -> str:
        """Which item failed that must have succeeded before ``item``; empty if none."""
        for name in (*item.after, *item.begins_after):
            if self._states.get(name, DONE) != DONE:
                why = "; only what is known to be right is timed" if name in CORRECTNESS else ""
                return f"{name} is: {self._states[name]}{why}"
        return ""

    def _give_turn(self) -> bool:
        """Give the most important item that waits its turn; whether an item has it.

        The others are paused: a step's time is partly the host's. Where the system cannot pause, nobody may work.
        """
        if any(one.process.has_turn for one in self._running):
            return True
        ready = [one for one in self._running if one.process.waits() and self._are_done(one.item.after)]
        if not ready or not (CAN_PAUSE or all(one.process.waits() for one in self._running)):
            for one in self._running:
                one.process.resume()
            return False
        chosen = min(ready, key=lambda one: self._order.index(one.item))
        others = [one for one in self._running if one is not chosen and not one.process.is_paused]
        for one in others:
            one.process.pause()
        if others:
            time.sleep(CALM_SECONDS)
        chosen.process.resume()
        chosen.process.give_turn()
        return True

    def _begin(self) -> None:
        """Begin with the next items, as long as there is room."""
        for item in list(self._pending):
            if self._are_done(item.begins_after):
                if not self._has_place(item):
                    break
                self._pending.remove(item)
                self._print(f"{item.name}: begins")
                number = next(self._numbers)
                process = Apart(
                    item.function, item.arguments, self._folder / str(number), self._environment(item, number)
                )
                self._running.append(_Running(item, process, company=False))
                if len(self._running) > 1:
                    for running in self._running:
                        running.company = True
        if self._pending and self._running and all(one.process.waits() for one in self._running):
            self._put_back()

    def _put_back(self) -> None:
        """End the items that wait for one that is to be tried alone; they begin anew after it."""
        self.stop()
        self._pending += [running.item for running in self._running]
        self._running = []

    def _has_place(self, item: Item) -> bool:
        if self._running and any(one.name in self._alone for one in (item, *(run.item for run in self._running))):
            return False
        waiting = [one.item for one in self._running if one.process.waits()]
        working = [one.item for one in self._running if not one.process.waits()]
        return self._room.has_place(item, working, waiting)

    def _are_done(self, names: Sequence[str]) -> bool:
        return all(self._states.get(name) == DONE for name in names)

    def _left(self) -> float:
        return self._start + self._budget - time.monotonic()

    def _row(self, item: Item, outcome: Outcome) -> Row:
        self._states[item.name] = outcome.state
        text = f"{item.name}: {outcome.state}" + (f": {outcome.message}" if outcome.message else "")
        self._print(f"{text}, {outcome.seconds:.0f} s" if outcome.seconds else text)
        return Row(item, outcome)

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:3.0f} s] {text}", flush=True)

    def _environment(self, item: Item, number: int) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
        # compilers start with empty caches, as on a fresh machine, and tunings for small tensors are not kept
        caches = self._folder / f"caches-{number}"
        environment |= {
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "KINETO_LOG_LEVEL": "99",
        }
        if item.folders:
            for name in FOLDERS:
                environment[name] = str(self._folder / name)
                (self._folder / name).mkdir(exist_ok=True)
        return environment | dict(item.environment)


def verdict(rows: Sequence[Row]) -> tuple[str, int]:
    """The last line, and the exit code: 1 if something is wrong, failed or did not end."""
    failed = [
        f"{row.item.name} ({row.outcome.state})"
        for row in rows
        if row.outcome.state in FAILURES or (row.item.name in CORRECTNESS and row.outcome.state != DONE)
    ]
    done = sum(row.outcome.state == DONE for row in rows)
    if failed:
        return f"FAILED: {', '.join(failed)}", 1
    if done == len(rows):
        return f"All {done} items are done, and none is wrong.", 0
    return f"{done} of {len(rows)} items are done, and none is wrong. The others say why they are not.", 0
