"""`emberwatch study`: the same machinery on other people's problems (docs/studies.md).

Each command imports its study when it runs, so that the product does without them.
"""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import console, print_json, refusing, train_extra

if TYPE_CHECKING:
    import torch

    from model.studies.report import StudyReport

app = typer.Typer(
    help="Other people's problems on the same machinery: each study writes a report with intervals.",
    no_args_is_help=True,
)

FullOption = Annotated[bool, typer.Option("--full", help="The sizes meant for a GPU; takes hours without one.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of splits, initial weights and draws.")]
ResamplesOption = Annotated[int, typer.Option(min=1, help="For the intervals.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@contextmanager
def studying() -> Iterator[None]:
    """Bad data, a run that fails and a missing extra end the command with exit code 2 and one line."""
    with refusing(ValueError, OSError, ArithmeticError), train_extra("the study"):
        yield


def carry_out(run: "Callable[[torch.device], StudyReport]", out: Path, *, as_json: bool) -> None:
    """Run a study on the first CUDA device or the CPU, write its report into `out`, say who won."""
    import torch  # noqa: PLC0415  (slow to import)

    from model.studies.report import write_study  # noqa: PLC0415  (an extra)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = run(device)
    data = write_study(report, out, shlex.join(["emberwatch", *sys.argv[1:]]), device)
    if as_json:
        print_json(data)
    for verdict in data["verdicts"]:
        console.print(verdict, highlight=False)
    console.print(f"written to {out}", highlight=False)
