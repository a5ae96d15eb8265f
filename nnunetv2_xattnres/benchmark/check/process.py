"""Runs one function in its own process with a time limit, so that a failure or a hang does not affect the rest.

After an error of CUDA, every later call in its process fails; a kernel that does not end cannot be interrupted.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

DONE, WRONG, FAILED, NO_MEMORY, TOO_LONG = "done", "wrong", "failed", "out of memory", "too long"
END_SECONDS = 10  # for a killed process to end; one that waits for a driver may not end
LINES_KEPT = 40  # of the output of the process


class WrongResult(Exception):
    """A computed result is wrong."""


@dataclass
class Outcome:
    """The outcome of a function.

    Attributes:
        state: One of the constants of this module.
        message: Why it is not ``done``, in one line.
        seconds: Seconds that it took, including the start of its process.
        figures: The reported figures, which are incomplete unless it is ``done``.
        log: The last lines of its output, unless it is ``done``.
    """

    state: str
    message: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class Report:
    """Writes figures to a file at once, so that they survive the process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._figures: dict[str, Any] = {}

    def __call__(self, **figures: Any) -> None:
        """Add figures, or replace those of the same name."""
        self._figures.update(figures)
        _write(self._file, self._figures)


def run_apart(
    function: str, arguments: Mapping[str, Any], limit: float, folder: Path, environment: Mapping[str, str]
) -> Outcome:
    """Call ``function`` (``module:name``) with a :class:`Report` and ``arguments`` in a new process.

    Args:
        function: Module and name of the function.
        arguments: Keyword arguments, of types that JSON has.
        limit: Seconds after which the process and its child processes are killed.
        folder: Folder for the files of the process; it is created.
        environment: All environment variables of the process.
    """
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    command = [sys.executable, "-m", __name__, function, json.dumps(dict(arguments)), str(folder)]
    start, code = time.monotonic(), None
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code != 0:
                _kill(process)
    ended = _read(folder / "ended.json")
    outcome = Outcome(**ended) if ended else Outcome(*_without_word(code, limit))
    outcome.seconds, outcome.figures = time.monotonic() - start, _read(folder / "figures.json")
    if outcome.state != DONE:
        outcome.log = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_KEPT:]
    return outcome


def _without_word(code: int | None, limit: float) -> tuple[str, str]:
    """State and message of a process that reported no outcome."""
    if code is None:
        return TOO_LONG, f"no end within {limit:.0f} s: stopped"
    if code == -getattr(signal, "SIGKILL", 9):
        return FAILED, "the process was killed, as the system does where the machine's memory is short"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return FAILED, f"the process ended {how} without a result"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Run in the new process: call the function, and report its outcome."""
    function, values, folder = arguments[0], json.loads(arguments[1]), Path(arguments[2])
    module, name = function.split(":")
    state, message = DONE, ""
    try:
        getattr(import_module(module), name)(Report(folder / "figures.json"), **values)
    except Exception as error:
        traceback.print_exc()
        state, message = _reason(error)
    _write(folder / "ended.json", {"state": state, "message": message})


def _reason(error: Exception) -> tuple[str, str]:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, WrongResult):
        return WRONG, text
    # the compiler wraps an error in its own, which includes the text of the first
    if isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__ or "out of memory" in str(error):
        return NO_MEMORY, "it does not fit in memory here"
    return FAILED, f"{type(error).__name__}: {text[:300]}"


def _write(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(_plain(content)), encoding="utf-8")
    partial.replace(file)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _plain(value: Any) -> Any:
    """``value`` for JSON: NaN and infinity become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    # imported by its name, not as __main__, so that the function sees the same classes of this module
    import_module("nnunetv2_xattnres.benchmark.check.process").main(sys.argv[1:])
