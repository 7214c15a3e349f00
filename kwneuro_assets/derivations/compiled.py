"""Functions that numba compiles to machine code on their first call, with a cache on disk.

Compilation takes seconds, and needs no compiler at installation. The cache is next to the module or in the user's cache
folder, as for Python's bytecode (`NUMBA_CACHE_DIR` overrides it). A function is recompiled for another processor,
another numba, or a changed source file. Threads share the compiled code, which releases the GIL while it runs.

A compiled function must be in the same file as the functions that it calls, because numba compares the cache with the
date of this file only. No option is set that allows the compiler to reorder sums.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

LOGGED = 0.5  # s: faster means that the function was already compiled in this process

_compiling = threading.Lock()

log = logging.getLogger(__name__)


def compiled(function: Function) -> Function:
    """Decorator that compiles a function of arrays and numbers, which may call other compiled functions."""
    numba: Any = import_module("numba")  # some versions have type annotations, but not for this use
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # from numba, if no cache folder is writable: every process compiles
        return numba.njit(**options)(function)


def compile_now(function: Callable[..., Any], *arguments: object) -> None:
    """Compiles a function for arguments of these types if necessary, and logs the compilation."""
    numba: Any = import_module("numba")
    dispatcher: Any = function
    with _compiling:  # measured inside the lock: another thread's compilation does not count
        started = time.perf_counter()
        dispatcher.compile(tuple(numba.typeof(argument) for argument in arguments))
        seconds = time.perf_counter() - started
    if dispatcher.stats.cache_hits or seconds < LOGGED:
        return
    where = dispatcher.stats.cache_path
    cache = f"cached in {where}" if where else "not cached: set NUMBA_CACHE_DIR to a writable folder"
    log.info("Compiled %s for this machine in %.1f s, %s", dispatcher.__name__, seconds, cache)
