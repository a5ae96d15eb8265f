"""Runs one command in its own process, writes its output to a log, and can stop it."""

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
# signals that end a program from outside: a user, scancel, a time limit, or the end of a login sends them
_REQUESTS = {number_of(name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")} - {None}


class Stopped(Exception):
    """The command was stopped on request or by a signal from outside; a later start continues its cell."""


class CommandFailed(Exception):
    """A command ended with another exit code than 0; the message names the command and the reason."""


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
        variables: Environment variables in addition to those of this process.
        log: File to which its output is appended.
        stop: Stops the command, and all processes that it started, when set.
        keep: A file descriptor that the command inherits (its cell's lock); ``None`` on Windows.
        meanwhile: Called several times a second while the command runs.

    Returns:
        The exit code.

    Raises:
        Stopped: ``stop`` was set, or a signal came from outside (``scancel`` sends SIGTERM, a time limit SIGUSR2).
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches only this program, which then stops the command cleanly
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            pass_fds=() if keep is None else (keep,),
        )
        try:
            while process.poll() is None:
                if stop.wait(0.2):
                    raise Stopped
                meanwhile()
        finally:  # also after an exception from a signal handler
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
    """Ask the command and its child processes to end; on Windows, which cannot ask, kill them."""
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
