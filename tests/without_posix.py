"""Python code that takes the names that Windows lacks away from our modules, for processes of their own."""

import subprocess
import sys

WITHOUT = """
import builtins, os, signal, sys, types

MISSING = {
    "signal": ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGXCPU", "SIGALRM", "SIGQUIT", "SIGPIPE", "SIGCHLD",
               "SIGTSTP", "SIGCONT", "alarm", "setitimer", "pthread_sigmask", "pthread_kill", "siginterrupt"),
    "os": ("fork", "forkpty", "killpg", "setsid", "setpgid", "getpgid", "getpgrp", "getuid", "geteuid", "nice",
           "wait3", "wait4", "getloadavg", "O_CLOEXEC", "sched_getaffinity", "sched_setaffinity", "sysconf"),
}
real = builtins.__import__

def poorer(module):
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update((k, v) for k, v in vars(module).items() if k not in MISSING[module.__name__])
    return copy

POORER = {name: poorer(sys.modules[name]) for name in MISSING}

def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and (globals or {}).get("__name__", "").startswith("nnunetv2_xattnres"):
        if name.split(".")[0] in ("fcntl", "pwd", "grp", "resource", "termios", "pty", "posix"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        if name in POORER:
            return POORER[name]
    return real(name, globals, locals, fromlist, level)

def take_away():
    builtins.__import__ = without_posix
"""


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def make_site(folder):
    """Write a ``sitecustomize.py``: on ``PYTHONPATH``, it does the same in every process, and makes them spawn."""
    folder.mkdir()
    code = f"{WITHOUT}\ntake_away()\nimport multiprocessing\nmultiprocessing.set_start_method('spawn')\n"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return folder
