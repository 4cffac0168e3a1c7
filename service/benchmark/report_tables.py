"""A report of `emberwatch bench` or of loadtest/ as Markdown: the same rows give the same words."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Report = dict[str, Any]
Row = dict[str, Any]

NEEDED = {"commit", "date", "device", "command", "rows"}
STAGE = "stage_time"
STAGES = ("load", "judge", "preprocess", "step", "alert", "pack", "commit")  # of the engine, in their order
WIDE = {  # rows of a load scenario that stand beside each other in one line of a table
    "offered_load": "offered, samples/s",
    "throughput": "served, samples/s",
    "latency_p50": "p50, ms",
    "latency_p99": "p99, ms",
    "latency_p99_9": "p99.9, ms",
    "server_cpu_per_sample": "processor, us/sample",
    "samples_per_core_second": "samples/s of one core",
    "requests_sent_again": "sent again",
    "duplicates": "duplicates",
    "samples_lost": "lost",
}


class ReportError(ValueError):
    """A file that is not a report; the message names it and says what is missing."""


def read_report(path: Path) -> Report:
    """Raises ReportError."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read: {error}") from error
    missing = NEEDED - set(report) if isinstance(report, dict) else NEEDED
    if missing:
        raise ReportError(f"{path} is not a report: {', '.join(sorted(missing))} missing")
    for i, row in enumerate(report["rows"]):
        if not {"name", "params", "value", "unit"} <= set(row):
            raise ReportError(f"{path}, row {i}: name, params, value or unit missing")
    found: Report = report
    return found


def markdown(*reports: Report) -> str:
    """Where they come from, the figures of all, and the cost by stage."""
    rows: list[Row] = [row for report in reports for row in report["rows"]]
    wide = [row for row in rows if "scenario" in row["params"] and row["name"] in WIDE]
    narrow = [row for row in rows if row["name"] != STAGE and row not in wide]
    parts = [f"`{r['command']}` (commit {r['commit']}, {r['date']}; {r['device']})" for r in reports]
    parts += [scenario_table(wide)] if wide else []
    parts += [figure_table(narrow)] if narrow else []
    stages = [row for row in rows if row["name"] == STAGE]
    parts += [stage_table(stages)] if stages else []
    return "\n\n".join(parts) + "\n"


def filled(document: Path) -> str:
    """A document with what stands between `<!-- report FILE... -->` and `<!-- /report -->` made anew from these files beside it.

    Raises:
        ReportError: one of them is not a report.
    """

    def block(match: re.Match[str]) -> str:
        reports = [read_report(document.parent / name) for name in match[2].split()]
        return f"{match[1]}\n\n{markdown(*reports)}\n{match[3]}"

    return re.sub(r"(<!-- report ([^>]+?) -->).*?(<!-- /report -->)", block, document.read_text(), flags=re.DOTALL)


def scenario_table(rows: Sequence[Row]) -> str:
    """One line for each scenario, driver and role; in brackets the lowest and highest of the run's windows."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    first_role: dict[tuple[str, str], str] = {}
    for row in rows:
        if "role" in row["params"]:
            first_role.setdefault((row["params"]["scenario"], row["params"]["driver"]), row["params"]["role"])
    for row in rows:
        params = row["params"]
        role = params.get("role", first_role.get((params["scenario"], params["driver"]), ""))
        lines.setdefault((params["scenario"], params["driver"], role), {})[row["name"]] = cell(row)
    head = ["scenario", "driver", "who", *WIDE.values()]
    body = [[*key, *(found.get(name, "") for name in WIDE)] for key, found in lines.items()]
    return table(head, body)


def figure_table(rows: Sequence[Row]) -> str:
    """One line for each row."""
    head = ["what", "of", "value", "unit", "beside"]
    return table(head, [[r["name"], of(r["params"]), cell(r), r["unit"], beside(r)] for r in rows])


def stage_table(rows: Sequence[Row]) -> str:
    """Microseconds of wall clock per sample: one line for each run, one column for each stage of the engine."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        stage = row["params"]["stage"].removeprefix("stage ")
        if stage in STAGES:
            of_run = {name: value for name, value in row["params"].items() if name in {"scenario", "driver", "mode"}}
            lines.setdefault(of(of_run), {})[stage] = figure(row["value"])
    head = ["us of a stage per sample", *STAGES]
    return table(head, [[key, *(found.get(stage, "") for stage in STAGES)] for key, found in lines.items()])


def table(head: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    head = list(head)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    return "\n".join(lines)


def cell(row: Row) -> str:
    """A value, with its lowest and highest if it has them."""
    low, high = row.get("lo"), row.get("hi")
    spread = "" if low is None or high is None or low == high else f" [{figure(low)} to {figure(high)}]"
    return figure(row["value"]) + spread


def figure(value: float | None) -> str:
    """Three digits, all of those before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def of(params: dict[str, Any]) -> str:
    """Parameters in words."""
    return " ".join(
        f"{value}" if name in {"scenario", "driver", "mode"} else f"{name}={value}" for name, value in params.items()
    )


def beside(row: Row) -> str:
    """The peer and how many times as good."""
    return "" if row.get("ratio") is None else f"{row['ratio']:.3g} x {row.get('peer') or ''}".strip()
