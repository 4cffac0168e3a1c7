"""The one way compiled functions are made here: `@compiled` for parts, `@entry_point` for what Python calls.

No fast-math anywhere: what is compiled gives the same bits in every process of a machine. The GIL is released while an
entry point runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


def compiled(function: Function) -> Function:
    """Compile a part; it is inlined into the entry point that uses it and not cached on its own."""
    return cast(Function, numba.njit(error_model="numpy", nogil=True)(function))


def entry_point(function: Function) -> Function:
    """Compile a function that Python calls, once for each combination of argument types, on the first such call."""
    return _cached(function, None)


def entry_point_for(function: Function, *arguments: Any) -> Function:
    """Compile for these numba types now, and for no others: a call with any others raises TypeError.

    For what must never stop to compile while it serves.
    """
    return _cached(function, arguments)


def _cached(function: Function, signature: tuple[Any, ...] | None) -> Function:
    """Compile with the machine code kept on disk: in NUMBA_CACHE_DIR, or beside the source, or in the user's cache."""
    _forget_stale_code(function)
    compile_ = partial(numba.njit, signature, error_model="numpy", nogil=True)
    try:
        return cast(Function, compile_(cache=True)(function))
    except RuntimeError as error:  # numba finds no folder that it may write to
        logger.warning("machine code is not kept, every start compiles again: %s", error)
        return cast(Function, compile_()(function))


def _forget_stale_code(function: Callable[..., Any]) -> None:
    """Delete this function's cached machine code if it is older than any source file beside the function's.

    Numba's cache watches only the file a function is defined in, not those of the functions it calls.
    """
    try:
        folder = Path(str(numba.njit(cache=True)(function).stats.cache_path))
    except RuntimeError:
        return
    source = Path(function.__code__.co_filename)
    newest = max(path.stat().st_mtime for path in (*source.parent.glob("*.py"), Path(__file__)))
    for index in folder.glob(f"{source.stem}.{function.__qualname__}-*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
        except OSError:  # another process was first
            continue
