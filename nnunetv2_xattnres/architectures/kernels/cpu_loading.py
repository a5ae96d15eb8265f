"""Compiles the entry points of ``cpu_compiled.py`` when they are first needed, and keeps them on disk.

Numba's cache guards neither loading nor saving: a damaged file or a full disk would end every later start.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import cache
from threading import Lock

import numba
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.errors import NumbaError

from nnunetv2_xattnres.architectures.kernels import cpu_compiled

_LOG = logging.getLogger(__name__)
_LOCK = Lock()


class EntryPoint:
    """A compiled C function of the address of its record; ``address`` is that of the machine code."""

    def __init__(self, callback: numba.core.ccallback.CFunc) -> None:
        self.address: int = callback.address
        self._keep = callback  # owns the machine code
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(callback.address)

    def __call__(self, record: int) -> None:
        """Run it in this thread; ``record`` is the record's address."""
        self._call(record)


def load(name: str, dtype: str) -> EntryPoint:
    """Compile an entry point, or load it from the cache.

    Args:
        name: ``mix``, ``differentiate``, ``pool`` or ``unpool``.
        dtype: What it computes in, ``float32`` or ``float64``.

    Raises:
        RuntimeError: with ``NUMBA_DISABLE_JIT=1``.
        numba.core.errors.NumbaError: where Numba cannot compile.
    """
    if numba.config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT=1 forbids compiling")
    with _LOCK:  # two threads at once would compile twice
        return _load(name, dtype)


@cache
def _load(name: str, dtype: str) -> EntryPoint:
    function = getattr(cpu_compiled, name)
    with event.install_listener("numba:compile", _Announcement()):
        return EntryPoint(compiled(function, cpu_compiled.signature_of(cpu_compiled.ENTRY_POINTS[function], dtype)))


def compiled(function: Callable, signature: object) -> numba.core.ccallback.CFunc:
    """Load from the cache, else compile; whatever is wrong with the cache, compile.

    Raises:
        numba.core.errors.NumbaError: where Numba cannot compile.
    """
    try:
        cache = FunctionCache(function)
        try:
            return _compiled(function, signature, cache=True)
        except (NumbaError, OSError):
            raise
        except Exception as error:  # a damaged pickle can raise anything
            reason = f"{type(error).__name__}: {error}"
            _say_once("%s holds damaged files of Numba (%s): compiling anew", cache.cache_path, reason)
            cache.flush()
            return _compiled(function, signature, cache=True)
    except NumbaError:
        raise
    except Exception as error:  # a full disk, no folder or file that can be written to
        _say_once(
            "Numba cannot keep on disk what it compiles, so each process compiles anew (%s). "
            "Make space, or let NUMBA_CACHE_DIR name a folder that can be written to.",
            f"{type(error).__name__}: {error}",
        )
        return _compiled(function, signature, cache=False)


def _compiled(function: Callable, signature: object, cache: bool) -> numba.core.ccallback.CFunc:
    return numba.cfunc(signature, cache=cache, **cpu_compiled.OPTIONS)(function)


class _Announcement(event.Listener):
    """Says that compiling takes a while, when it begins."""

    def on_start(self, _event: event.Event) -> None:
        _say_once("Numba compiles XAttnRes for this CPU. This takes about 20 seconds, once.")

    def on_end(self, _event: event.Event) -> None:
        pass


def _say_once(message: str, *arguments: object) -> None:
    """Log a message, with whatever arguments, once per process; without a logging configuration, a line on stderr."""
    if message not in _SAID:
        _SAID.add(message)
        _LOG.warning(message, *arguments)


_SAID: set[str] = set()
