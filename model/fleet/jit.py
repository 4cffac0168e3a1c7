"""The one way compiled functions are made here: `@compiled` for parts, `@entry_point` for what Python calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def _forget_stale_code() -> None:
    """Delete cached machine code older than any source file of this package.

    Numba's cache watches only the file a function is defined in, not those of the functions it calls.
    """
    here = Path(__file__).parent
    newest = max(path.stat().st_mtime for path in here.glob("*.py"))
    for index in (here / "__pycache__").glob("*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
        except OSError:  # another process was first, or the folder is read-only and then has no stale code of ours
            continue


_forget_stale_code()


def compiled(function: Function) -> Function:
    """Compile a part of the physics; it is inlined into the entry point that uses it and not cached on its own."""
    return cast(Function, numba.njit(error_model="numpy")(function))


def entry_point(function: Function) -> Function:
    """Compile a function that Python calls, and keep the machine code beside the source."""
    return cast(Function, numba.njit(error_model="numpy", cache=True)(function))
