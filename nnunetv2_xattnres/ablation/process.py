"""One command in a process of its own, with its output in a log, that can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event

GRACE_SECONDS = 10
# sent from outside to end a program: by a user, scancel, a time limit, or the end of a login
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(Exception):
    """The command was ended on request, or by a signal from outside: its cell is to be continued later."""


class CommandFailed(Exception):
    """A command did not end with 0; the message says which, and why."""


def run_logged(
    command: Sequence[str],
    variables: Mapping[str, str],
    log: Path,
    stop: Event,
    keep: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Run a command to its end.

    Args:
        command: Executable and arguments.
        variables: Environment variables beside the present ones.
        log: File that its output is appended to.
        stop: Ends the command, and all processes that it started, when set.
        keep: A file descriptor that the command inherits (its cell's lock).
        meanwhile: Called several times a second while the command runs.

    Returns:
        The exit code.

    Raises:
        Stopped: by ``stop``, or by a signal from outside (``scancel`` sends SIGTERM, a time limit SIGUSR2).
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this program, which then ends the command in order
            pass_fds=() if keep is None else (keep,),
        )
        try:
            while process.poll() is None:
                if stop.wait(0.2):
                    raise Stopped
                meanwhile()
        finally:  # also on an exception that a signal handler raises here
            if process.poll() is None:
                _end(process)
    if -process.returncode in _REQUESTS:
        raise Stopped
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def reason(code: int, log: Path) -> str:
    """Why a command failed, from its exit code and the end of its log."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL): out of memory?"
    ended = f"ended with {code}" if code > 0 else f"died of {signal.Signals(-code).name}"
    return f"{ended}: {last_line(log)}"


def last_line(log: Path) -> str:
    """The last line with text in a log: for a Python program that failed, the error itself."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
