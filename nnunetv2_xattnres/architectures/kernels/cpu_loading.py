"""Compiles the entry points of ``cpu_compiled.py`` when they are first needed, and keeps them on disk.

Numba's cache guards neither loading nor saving: a damaged file or a full disk would end every later start.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from threading import Lock

import numba
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.errors import NumbaError

from nnunetv2_xattnres.architectures.kernels import cpu_compiled

_LOG = logging.getLogger(__name__)  # a warning is one line on stderr, unless logging is configured otherwise
_LOCK = Lock()


def load(name: str, dtype: str) -> Callable[[int], None]:
    """An entry point as a C function of the address of its record; its ``address`` is that of the machine code.

    Args:
        name: ``mix``, ``differentiate``, ``pool`` or ``unpool``.
        dtype: What it computes in, ``float32`` or ``float64``.

    Raises:
        RuntimeError: with ``NUMBA_DISABLE_JIT=1``.
        numba.core.errors.NumbaError: where Numba cannot compile.
    """
    with _LOCK:  # two threads at once would compile twice
        return _load(name, dtype)


@lru_cache(maxsize=None)
def _load(name: str, dtype: str) -> Callable[[int], None]:
    if numba.config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT=1 forbids compiling")
    function = getattr(cpu_compiled, name)
    with event.install_listener("numba:compile", _Announcement()):
        callback = compiled(function, cpu_compiled.signature_of(cpu_compiled.ENTRY_POINTS[function], dtype))
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(callback.address)
    call.address, call.keep = callback.address, callback
    return call


def compiled(function: Callable, signature: object) -> numba.core.ccallback.CFunc:
    """Load from the cache, else compile; whatever is wrong with the cache, compile."""
    try:
        cache = FunctionCache(function)
    except (RuntimeError, OSError) as error:  # no folder can be written to
        _LOG.warning(_NOT_KEPT, error)
        return numba.cfunc(signature, **cpu_compiled.OPTIONS)(function)
    for healed in (False, True):
        try:
            return numba.cfunc(signature, cache=True, **cpu_compiled.OPTIONS)(function)
        except NumbaError:
            raise
        except OSError as error:  # the disk is full, or the file cannot be read
            _LOG.warning(_NOT_KEPT, error)
            break
        except Exception as error:  # a damaged pickle can raise anything
            if healed:
                raise
            _LOG.warning(
                "Numba's cache in %s is damaged (%s: %s): compiling again", cache.cache_path, type(error).__name__, error
            )
            with suppress(OSError):
                cache.flush()
    return numba.cfunc(signature, **cpu_compiled.OPTIONS)(function)


_NOT_KEPT = (
    "what Numba compiles cannot be kept on disk, so every process compiles anew (%s): "
    "make space, or name a writable folder with NUMBA_CACHE_DIR"
)


class _Announcement(event.Listener):
    """Says once per process that compiling takes a while, when it begins."""

    said = False

    def on_start(self, _event: event.Event) -> None:
        if not _Announcement.said:
            _Announcement.said = True
            _LOG.warning("XAttnRes: Numba compiles for this CPU, which takes about 20 seconds once")

    def on_end(self, _event: event.Event) -> None:
        pass
