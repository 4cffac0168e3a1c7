"""How commands speak: people read standard error, programs read standard output with --json."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

console = Console(stderr=True)

CANNOT_ASK = 2
ANSWER_IS_NO = 1


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """These errors end the command with exit code 2 and one line instead of a traceback."""
    try:
        yield
    except errors as error:
        console.print(f"[red]emberwatch:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(CANNOT_ASK) from error


@contextmanager
def train_extra(user: str = "the simulator") -> Iterator[None]:
    """A missing package of the extra `train`, which `user` needs, ends the command with what to install."""
    try:
        yield
    except ImportError as error:
        console.print(f"emberwatch: {error}; {user} needs: pip install 'emberwatch[train]'", highlight=False)
        raise typer.Exit(CANNOT_ASK) from error


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")
