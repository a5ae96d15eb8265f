"""Runs a function in its own process, which can be paused and killed, so that a failure does not affect the rest.

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
BUSY = "GPU is busy"  # in the mode of some clusters in which a single process may use it
END_SECONDS = 10  # for a killed process to end; one that waits for a driver may not end
LINES_KEPT = 40  # of the output of the process
CAN_PAUSE = hasattr(os, "killpg")  # not on Windows
# files in the folder of a process
FIGURES, READY, PAUSED, ENDED, LOG = "figures.json", "ready", "paused.json", "ended.json", "log.txt"


class WrongResult(Exception):
    """A computed result is wrong."""


@dataclass
class Outcome:
    """The outcome of a function.

    Attributes:
        state: One of the constants of this module.
        message: Why it is not ``done``, in one line.
        seconds: Seconds that it ran, as :attr:`Apart.seconds`.
        figures: The reported figures, which are incomplete unless it is ``done``.
        log: The last lines of its output, unless it is ``done``.
    """

    state: str
    message: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class Report:
    """The side of the new process: it writes figures to a file at once, so that they survive the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._figures: dict[str, Any] = {}

    def __call__(self, **figures: Any) -> None:
        """Add figures, or replace those of the same name."""
        self._figures.update(figures)
        _write(self._folder / FIGURES, self._figures)

    def wait_for_turn(self) -> None:
        """Tell that everything is prepared, and wait until nothing else is measured."""
        (self._folder / READY).touch()
        if not sys.stdin.readline():
            raise SystemExit("the check has ended: there will be no turn")

    def paused(self) -> float:
        """Seconds that this process was paused until now, for clocks that went on meanwhile."""
        return _read(self._folder / PAUSED).get("seconds", 0.0)


class Apart:
    """A function in a new process, which may wait there for its turn.

    Args:
        function: ``module:name``; it is called with a :class:`Report` and ``arguments``.
        arguments: Keyword arguments, of types that JSON has.
        folder: Folder for the files of the process; it is created.
        environment: All environment variables of the process.

    Attributes:
        has_turn: Whether it was told to go on after it had waited.
    """

    def __init__(
        self, function: str, arguments: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._awake, self._pauses = _Clock(), _Clock()
        self._before_turn = 0.0
        self._ready = self.has_turn = False
        command = [sys.executable, "-m", __name__, function, json.dumps(dict(arguments)), str(folder)]
        with (folder / LOG).open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._awake.start()

    @property
    def seconds(self) -> float:
        """Seconds that it ran, including the start of its process: neither those paused nor the wait for its turn."""
        return self._awake.seconds

    @property
    def seconds_of_turn(self) -> float:
        """Seconds since it got its turn."""
        return self._awake.seconds - self._before_turn if self.has_turn else 0.0

    @property
    def is_paused(self) -> bool:
        """Whether it was paused and not resumed."""
        return self._pauses.runs

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def waits(self) -> bool:
        """Whether it is prepared and waits for its turn."""
        if not self._ready and (self._folder / READY).exists():
            self._ready = True
            self._awake.stop()
        return self._ready and not self.has_turn

    def give_turn(self) -> None:
        """Let it go on."""
        self.has_turn = True
        self._before_turn = self._awake.seconds
        self._awake.start()
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died: its outcome will say so
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def pause(self) -> None:
        """Stop the process and its child processes until :meth:`resume`, where the system can."""
        if CAN_PAUSE and not self.is_paused:
            self._awake.stop()
            self._pauses.start()
            self._signal("SIGSTOP")

    def resume(self) -> None:
        """Let the process continue after :meth:`pause`."""
        if self.is_paused:
            self._pauses.stop()
            _write(self._folder / PAUSED, {"seconds": self._pauses.seconds})
            if not self.waits():
                self._awake.start()
            self._signal("SIGCONT")

    def kill(self) -> None:
        """Begin to end the process and its child processes, also a paused one; :meth:`outcome` waits for the end."""
        self._awake.stop()
        self._signal("SIGKILL")

    def outcome(self, state: str = TOO_LONG, message: str = "") -> Outcome:
        """The outcome; a process that has not ended is killed, and ``state`` and ``message`` say why."""
        self._awake.stop()
        code = self._process.poll()
        if code != 0:
            self.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        ended = _read(self._folder / ENDED)
        outcome = Outcome(**ended) if ended else Outcome(*((state, message) if code is None else _without_word(code)))
        outcome.seconds, outcome.figures = self.seconds, _read(self._folder / FIGURES)
        if outcome.state != DONE:
            text = (self._folder / LOG).read_text(encoding="utf-8", errors="replace")
            outcome.log = text.splitlines()[-LINES_KEPT:]
        return outcome

    def _signal(self, name: str) -> None:
        with suppress(ProcessLookupError):
            if CAN_PAUSE:
                os.killpg(self._process.pid, signal.Signals[name])
            else:
                self._process.kill()


class _Clock:
    """A stopwatch that can be stopped and started again."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    @property
    def runs(self) -> bool:
        return self._since is not None

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)

    def start(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def stop(self) -> None:
        self._before, self._since = self.seconds, None


def _without_word(code: int) -> tuple[str, str]:
    """State and message of a process that ended by itself and reported no outcome."""
    if code == -getattr(signal, "SIGKILL", 9):
        return FAILED, "the process was killed, as the system does where the machine's memory is short"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return FAILED, f"the process ended {how} without a result"


def main(arguments: Sequence[str]) -> None:
    """Run in the new process: call the function, and report its outcome."""
    function, values, folder = arguments[0], json.loads(arguments[1]), Path(arguments[2])
    module, name = function.split(":")
    state, message = DONE, ""
    try:
        getattr(import_module(module), name)(Report(folder), **values)
    except Exception as error:
        traceback.print_exc()
        state, message = _reason(error)
    _write(folder / ENDED, {"state": state, "message": message})


def _reason(error: Exception) -> tuple[str, str]:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, WrongResult):
        return WRONG, text
    # the compiler wraps an error in its own, which includes the text of the first
    if isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__ or "out of memory" in str(error):
        return NO_MEMORY, "it does not fit in memory here"
    if "busy or unavailable" in str(error):
        return BUSY, "another process uses it, and its mode is for one process"
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
