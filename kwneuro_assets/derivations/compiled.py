"""Functions that numba compiles to machine code: on their first call on a machine, and kept on disk for the next.

Compiling takes seconds, not minutes, and no compiler at installation. The code goes where Python keeps its own (beside
the module, or the user's cache folder; `NUMBA_CACHE_DIR` names another) and is made anew for another processor,
another numba or another version of the function. Threads share it, and it frees the interpreter while it runs.

What a compiled function calls must stand in its own file: numba looks at that file alone to tell whether the code on
disk is that of the source. No option is set that would let the compiler reorder sums.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

TOLD = 0.5  # s: what was compiled before in this process takes none

_compiling = threading.Lock()

log = logging.getLogger(__name__)


def compiled(function: Function) -> Function:
    """Decorator: the same function, compiled. It may call others that are compiled, and take arrays and numbers."""
    numba: Any = import_module("numba")  # typed in some of its versions, and not for this use
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba's, where no folder is writable: every process compiles anew
        return numba.njit(**options)(function)


def compile_now(function: Callable[..., Any], *arguments: object) -> None:
    """Have a compiled function ready for arguments of these types, and log where that took a compilation."""
    numba: Any = import_module("numba")
    dispatcher: Any = function
    with _compiling:  # so that a thread that waits for another's compilation does not count it as its own
        started = time.perf_counter()
        dispatcher.compile(tuple(numba.typeof(argument) for argument in arguments))
        seconds = time.perf_counter() - started
    if dispatcher.stats.cache_hits or seconds < TOLD:
        return
    where = dispatcher.stats.cache_path
    kept = f"and is kept in {where}" if where else "as no folder for it is writable: set NUMBA_CACHE_DIR to one"
    log.info("%s was compiled for this machine, which took %.1f s, %s", dispatcher.__name__, seconds, kept)
