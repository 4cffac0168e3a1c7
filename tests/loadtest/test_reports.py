"""Reports that the documents quote: rendered from the files beside them, and of runs in which nothing was lost."""

import re
from pathlib import Path

import pytest

from service.benchmark.report_tables import filled, read_report
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
QUOTING = [path for path in DOCS.glob("*.md") if "<!-- report " in path.read_text()]


@pytest.mark.parametrize("document", QUOTING, ids=lambda path: path.name)
def test_quoted_reports_are_what_the_command_writes(document: Path) -> None:
    """`emberwatch bench show --into docs/PAGE.md`."""
    assert document.read_text() == filled(document), (
        f"run emberwatch bench show --into {document.relative_to(REPOSITORY)}"
    )


def test_every_load_scenario_is_reported_with_nothing_lost() -> None:
    """All five in an open loop, and what Locust ran; each with its latencies, its cost and the command that made it."""
    rows = []
    for path in sorted((DOCS / "load").glob("*.json")):
        report = read_report(path)
        assert report["correct"] is True
        assert re.match(r"python -m loadtest\.\w+ ", report["command"]), path
        rows += report["rows"]
    lost = {(r["params"]["driver"], r["params"]["scenario"]): r["value"] for r in rows if r["name"] == "samples_lost"}
    assert {scenario for driver, scenario in lost if driver == "open"} >= {"steady", "rush", "storm", "backfill", "hot"}
    assert set(lost.values()) == {0}
    for name in ("throughput", "latency_p50", "latency_p99", "latency_p99_9", "server_cpu_per_sample", "stage_time"):
        told = {(r["params"]["driver"], r["params"]["scenario"]) for r in rows if r["name"] == name}
        assert told == set(lost), name


def test_the_readme_quotes_the_open_loop_report() -> None:
    """Load, processor time and command of each scenario."""
    report = read_report(DOCS / "load" / "open.json")
    (line,) = [
        line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith("| five load scenarios")
    ]
    assert report["command"].partition(" --report")[0] in line
    figures = {(r["params"]["scenario"], r["name"]): r["value"] for r in report["rows"]}
    for scenario in ("steady", "rush", "storm", "backfill", "hot"):
        load, spent = figures[scenario, "offered_load"], figures[scenario, "server_cpu_per_sample"]
        assert f"`{scenario}` {load:,.0f} samples/s at {spent:,.0f} us" in line


def test_the_readme_quotes_the_soak() -> None:
    """Its samples, its memory by quarter; and that it was an hour in which nothing was lost."""
    report = read_report(DOCS / "load" / "soak.json")
    (line,) = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if "loadtest.soak" in line]
    quarter = {r["params"]["quarter"]: r["value"] for r in report["rows"] if r["name"] == "resident_memory_by_quarter"}
    figures = {r["name"]: r["value"] for r in report["rows"]}
    assert f"{round(figures['offered_load'] * figures['duration'], -3):,.0f} samples" in line
    assert f"{quarter[2] / 1e6:.0f} MB in the second quarter, {quarter[4] / 1e6:.0f} MB in the last" in line
    assert figures["duration"] >= 3_600
    assert figures["samples_lost"] == 0
    assert "--start-service --seconds 3600" in report["command"]
