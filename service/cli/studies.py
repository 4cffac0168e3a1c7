"""`emberwatch study`: the same machinery on other people's problems (docs/studies.md).

Each command imports its study when it runs, so that the product does without them.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import heard
from service.cli.options import ApiKeyOption
from service.cli.output import console, print_json, refusing, train_extra
from service.client import Client, ClientError

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
def studying(*errors: type[Exception]) -> Iterator[None]:
    """Bad data, a run that fails, a missing extra and these errors end the command with exit code 2 and one line."""
    with refusing(ValueError, OSError, ArithmeticError, *errors), train_extra("the study"):
        yield


def carry_out(run: "Callable[[torch.device], StudyReport]", out: Path, *, as_json: bool) -> None:
    """Run a study on the first CUDA device or the CPU, write its report into `out`, say who won."""
    import torch  # noqa: PLC0415  (slow to import)

    from model.studies.report import write_study  # noqa: PLC0415  (an extra)

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("model.studies").setLevel(logging.INFO)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = run(device)
    data = write_study(report, out, shlex.join(["emberwatch", *sys.argv[1:]]), device)
    if as_json:
        print_json(data)
    for verdict in data["verdicts"]:
        console.print(verdict, highlight=False)
    console.print(f"written to {out}", highlight=False)


@app.command()
def backblaze(
    data: Annotated[
        Path,
        typer.Option(help="Folder of Backblaze's daily .csv or .csv.gz files or quarterly .zip archives.", exists=True),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("studies/backblaze"),
    drive_model: Annotated[str | None, typer.Option(help="One drive model only [all together].")] = None,
    healthy: Annotated[
        int | None, typer.Option(min=1, help="Drives without a failure to keep [2000; full: 20000].")
    ] = None,
    cut: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the days before the test period.")] = 0.5,
    folds: Annotated[
        int, typer.Option(min=3, help="Of the drives: each tests one, validates on one, trains on the rest.")
    ] = 5,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each network [160; full: 4000].")] = None,
    resamples: ResamplesOption = 1_000,
    seed: SeedOption = 0,
    *,
    full: FullOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hard-drive failure: repeat a published comparison of networks and boosting (docs/studies.md)."""
    with studying():
        from model.studies.backblaze import FULL, BackblazeConfig, run  # noqa: PLC0415  (an extra)

        given = {name: value for name, value in (("healthy", healthy), ("steps", steps)) if value is not None}
        config = replace(
            FULL if full else BackblazeConfig(),
            drive_model=drive_model, cut=cut, folds=folds, resamples=resamples, seed=seed, **given,
        )  # fmt: skip
        carry_out(lambda device: run(data, config, device), out, as_json=as_json)


@app.command()
def forecast(
    data: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file of a regular series, or a folder of such files.")
    ] = None,
    bars: Annotated[int, typer.Option(min=0, help="Instead of --data: so many generated minute bars.")] = 0,
    columns: Annotated[
        str, typer.Option(help="Features, with commas between [open, high, low, close, volume, or all columns].")
    ] = "",
    time: Annotated[str | None, typer.Option(help="Column of the time [the first that is named like one].")] = None,
    log: Annotated[str, typer.Option(help="Features of which to take the logarithm [prices of bars].")] = "",
    log1p: Annotated[str, typer.Option(help="Features of which to take log(1 + x) [volume of bars].")] = "",
    step_s: Annotated[float | None, typer.Option(min=0.001, help="Seconds between rows [their median].")] = None,
    horizons: Annotated[str, typer.Option(help="Steps ahead, with commas between.")] = "1,10,60",
    context: Annotated[int, typer.Option(min=128, help="Steps of a window.")] = 2_048,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each network [320; full: 4000].")] = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 1_000,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("studies/forecast"),
    *,
    full: FullOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forecast a regular series from long contexts: Mamba-2 against a transformer, an autoregression and persistence."""
    with studying():
        from model.studies.forecast.study import Settings, enlarged, run  # noqa: PLC0415  (an extra)

        settings = Settings(
            data=data, bars=bars, columns=listed(columns), time=time, log=listed(log), log1p=listed(log1p), step_s=step_s,
            horizons=tuple(int(number) for number in listed(horizons)), context=context, seed=seed, resamples=resamples,
        )  # fmt: skip
        settings = enlarged(settings) if full else settings
        settings = settings if steps is None else replace(settings, steps=steps)
        carry_out(lambda device: run(settings, device), out, as_json=as_json)


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command()
def capacity(
    data: Annotated[
        Path | None, typer.Option(help="Folder of recordings: what `emberwatch simulate --out` writes, or your own.")
    ] = None,
    history: Annotated[Path | None, typer.Option(help="days.csv of an earlier run, which is added to.")] = None,
    service: Annotated[str | None, typer.Option(help="URL of a running service, for its last 48 hours.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the days.")] = Path("studies/capacity"),
    packs: Annotated[Path | None, typer.Option(help="CSV or Parquet with vehicle_id and pack_kwh.")] = None,
    pack_kwh: Annotated[float, typer.Option(help="Pack of vans that the file does not name, kWh.")] = 50.0,
    zone: Annotated[str | None, typer.Option(help="IANA zone in which days begin [every van's nautical zone].")] = None,
    least_hours: Annotated[float, typer.Option(help="Hours of a day that make it known.")] = 18.0,
    test_days: Annotated[int, typer.Option(min=8, help="Days that forecasts are judged on.")] = 14,
    calibration_days: Annotated[int, typer.Option(min=8, help="Days before them that set the intervals.")] = 14,
    risk_days: Annotated[
        int, typer.Option(min=0, help="Last days of recordings that the shipped model scores; 0: none.")
    ] = 7,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 1_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read recordings.")] = 2,
    key: ApiKeyOption = None,
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Five boosters for each forecast, more trees, risk of all days.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The daily view: what energy each depot needs tomorrow and next week, and which vans will be hot.

    Days of --data, --history and --service are put together; where two tell of the same day of a van, the fuller one counts.
    """
    with studying(ClientError):
        from model.studies.capacity.study import CapacitySettings, Heard, run  # noqa: PLC0415  (an extra)

        settings = CapacitySettings(
            data=data, history=history, service=service or "", packs=packs, pack_kwh=pack_kwh, zone=zone,
            least_hours=least_hours, test_days=test_days, calibration_days=calibration_days,
            risk_days=None if full else risk_days, full=full, seed=seed, resamples=resamples, workers=workers, days_out=out,
        )  # fmt: skip
        with Client(service or "http://127.0.0.1", key) as client:
            found = Heard(heard.trends(client), heard.alerts(client)) if service else Heard()
            carry_out(lambda device: run(settings, device, found), out, as_json=as_json)
