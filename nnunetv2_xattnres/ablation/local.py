"""Runs cells on this machine: one cell at a time on each GPU, or on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from nnunetv2_xattnres.ablation.cell import run_cell
from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.grid import Cell
from nnunetv2_xattnres.ablation.listing import Events, duration
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.errors import InputError

POLL_SECONDS = 2.0


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them (without importing torch)."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is not None:
        return [name.strip() for name in variable.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    count = sum(line.startswith("GPU") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
    return [str(number) for number in range(count)]


def devices(gpus: int | None) -> list[Device]:
    """One device for each cell that runs at the same time.

    Args:
        gpus: Number of GPUs to use; ``None`` is all of them, 0 is the CPU.

    Raises:
        InputError: the number is negative, or the machine has fewer GPUs.
    """
    there = visible_gpus()
    if gpus is not None and not 0 <= gpus <= len(there):
        raise InputError(f"--gpus {gpus}: this machine shows {len(there)} GPU(s); --gpus 0 runs on the CPU")
    chosen = there if gpus is None else there[:gpus]
    return [Device(1, name) for name in chosen] or [Device()]


def run_local(study: Study, cells: list[Cell], where: list[Device], events: Events, stop: Event) -> None:
    """Run cells until each is complete or failed; waits for cells that another start works on.

    Args:
        study: The study, saved.
        cells: The cells to run, in order.
        where: Devices; each works on one cell at a time.
        events: Prints the events.
        stop: Stops all cells, so that a later start can continue them. This function sets it if it is interrupted.

    A cell whose files cannot be written is reported and skipped; the others continue.
    """
    waiting, free = deque(cells), deque(where)
    held: set[Cell] = set()
    running: dict[Future[State | None], tuple[Cell, Device]] = {}

    def begin(cell: Cell, device: Device) -> State | None:
        how = "continues" if study.read_state(cell).get("started") else "started"
        return run_cell(study, cell, device, stop, lambda: events.say(cell, f"{how} on {device}"))

    with ThreadPoolExecutor(len(where)) as pool:
        try:
            while (waiting or running) and not stop.is_set():
                while waiting and free:
                    cell, device = waiting.popleft(), free.popleft()
                    running[pool.submit(begin, cell, device)] = cell, device
                for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                    cell, device = running.pop(future)
                    free.append(device)
                    try:
                        state = future.result()
                        if state is not None:
                            held.discard(cell)
                            tell_end(study, cell, state, events)
                            continue
                    except (InputError, OSError) as error:  # such as a full disk; the other cells continue
                        held.discard(cell)
                        text = " ".join(str(error).split())
                        events.say(cell, f"FAILED, and its files cannot be read or written: {text}")
                        continue
                    if cell not in held:
                        events.say(cell, "another start is at it, waiting for that one")
                        held.add(cell)
                    waiting.append(cell)
                    if len(waiting) <= len(held):
                        time.sleep(POLL_SECONDS)
        finally:
            stop.set()  # on Ctrl-C or an error: the pool's exit then waits until the cells have stopped


def tell_end(study: Study, cell: Cell, state: State, events: Events) -> None:
    """Print how a cell ended."""
    record = study.read_state(cell)
    if state == State.COMPLETE:
        dice = study.dice(cell)
        score = "no Dice is defined" if dice is None else f"Dice {dice:.4f}"
        events.say(cell, f"complete, {score}, {duration(record.get('hours'))}", done=True)
    elif state == State.FAILED:
        log = study.log_file(cell)
        events.say(cell, f"FAILED, {record.get('error')}" + (f"; log: {log}" if log.is_file() else ""))
    else:
        events.say(cell, "stopped, the next start continues it")
