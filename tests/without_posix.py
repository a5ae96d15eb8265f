"""Python code that takes away the names that Windows lacks, for tests that run it in a process of their own."""

import subprocess
import sys

WITHOUT = """
import builtins, os, signal, sys

for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGXCPU", "SIGALRM", "SIGQUIT", "SIGPIPE", "SIGCHLD",
             "SIGTSTP", "SIGCONT", "alarm", "setitimer", "pthread_sigmask", "pthread_kill", "siginterrupt"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fork", "forkpty", "killpg", "setsid", "setpgid", "getpgid", "getpgrp", "getuid", "geteuid", "nice",
             "wait3", "wait4", "getloadavg", "O_CLOEXEC", "sched_getaffinity", "sched_setaffinity"):
    if hasattr(os, name):
        delattr(os, name)
real = builtins.__import__

def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    ours = (globals or {}).get("__name__", "").startswith("nnunetv2_xattnres")
    if ours and level == 0 and name.split(".")[0] in ("fcntl", "pwd", "grp", "resource", "termios", "pty", "posix"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return real(name, globals, locals, fromlist, level)

def take_away():
    builtins.__import__ = without_posix
"""


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
