"""One command in a process of its own, with its output in a log, that can be stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event

from nnunetv2_xattnres.system import number_of

GRACE_SECONDS = 10
# sent from outside to end a program: by a user, scancel, a time limit, or the end of a login
_REQUESTS = {number_of(name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")} - {None}


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
        keep: A file descriptor that the command inherits (its cell's lock); ``None`` on Windows.
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
            # Ctrl-C reaches this program alone, which then ends the command in order
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
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
    for end in (_terminate, _kill):
        try:
            end(process)
            process.wait(GRACE_SECONDS)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Ask the command and all that it started to end; Windows knows no asking, there they are killed."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGTERM)
    elif shutil.which("taskkill"):
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    else:
        process.terminate()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg") and hasattr(signal, "SIGKILL"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def reason(code: int, log: Path) -> str:
    """Why a command failed, from its exit code and the end of its log."""
    if code < 0 and -code == number_of("SIGKILL"):
        return "was killed (SIGKILL): out of memory?"
    ended = f"ended with {code}" if code > 0 else f"died of {_name(-code)}"
    return f"{ended}: {last_line(log)}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def last_line(log: Path) -> str:
    """The last line with text in a log: for a Python program that failed, the error itself."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
