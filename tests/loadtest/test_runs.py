"""Small runs of everything in loadtest/ against a real service: figures come out, and a loss does not go unnoticed."""

import argparse
import asyncio
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from loadtest.measure import report, rows_of
from loadtest.open_loop import drive
from loadtest.run import locust, warm_up
from loadtest.scenarios import SCENARIOS, Size
from loadtest.soak import flat, growth, soak
from loadtest.target import scrape, started_service
from loadtest.vans import LoadError, make_vans
from loadtest.verify import check_counts, check_states
from service.benchmark.report_plots import draw
from service.benchmark.report_tables import markdown, read_report

SIZE = Size(vans=6, seconds=1.5, period_s=0.25)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of one service for all."""
    with started_service({"max_batch_size": 64, "slots": 160}) as started:
        warm_up(started)
        yield started


def test_every_scenario_runs_and_nothing_is_lost(url: str, tmp_path: Path) -> None:
    """All five at once in an open loop; the report has what the format promises and can be shown."""
    plans = [scenario(SIZE) for scenario in SCENARIOS.values()]
    fleets = [make_vans(f"open-{plan.name}", len(plan.roles)) for plan in plans]
    before = scrape(url)

    async def everything() -> list[object]:
        return await asyncio.gather(*(drive(plan, fleet, url) for plan, fleet in zip(plans, fleets, strict=True)))

    heard = asyncio.run(everything())
    after = scrape(url)
    rows = []
    for plan, fleet, of_plan in zip(plans, fleets, heard, strict=True):
        check_counts(url, fleet)
        rows += rows_of(plan, "open", fleet, of_plan, before, after)  # type: ignore[arg-type]
    sent = sum(van.made for fleet in fleets for van in fleet)
    assert after["samples_total applied"] - before["samples_total applied"] == sent
    storm = {row["name"]: row["value"] for row in rows if row["params"]["scenario"] == "storm"}
    assert storm["duplicates"] > 0
    assert storm["samples_lost"] == 0
    for row in rows:
        assert row["value"] >= 0
        assert row["lo"] is None or row["lo"] <= row["hi"]
    file = tmp_path / "all.json"
    file.write_text(json.dumps(report(rows)))
    shown = markdown(read_report(file))
    assert "| storm | open | fleet |" in shown
    assert "| backfill | open | backfill |" in shown
    assert "| us of a stage per sample |" in shown
    assert [path.name for path in draw(read_report(file), tmp_path, "all")] == ["all-latency.svg", "all-stages.svg"]


def test_a_loss_is_noticed(url: str) -> None:
    """A van with other samples than were sent, one that is gone, and one that was not answered."""
    plan = SCENARIOS["steady"](replace(SIZE, vans=2, seconds=0.5))
    vans = make_vans("lossy", 2)
    asyncio.run(drive(plan, vans, url))
    check_counts(url, vans)
    with pytest.raises(LoadError, match=r'(?s)the state of lossy-1.*"samples": \d.*"agrees": false'):
        check_states(url, [replace(vans[1], number=7)])
    with pytest.raises(LoadError, match="1 vans were not answered"):
        check_counts(url, [vans[0], replace(vans[1], made=vans[1].made + 1)])
    assert httpx.delete(f"{url}/v1/vehicles/lossy-1").is_success
    with pytest.raises(LoadError, match=r"1 of 2 vans are not as sent.*None"):
        check_counts(url, vans)


def test_locust_runs_a_scenario(url: str) -> None:
    """In a process of its own, that ends by itself."""
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed (extra load)")
    rows = {row["name"]: row for row in locust(SCENARIOS["storm"](SIZE), url, 0)}
    assert rows["samples_lost"]["value"] == 0
    assert rows["duplicates"]["value"] > 0
    assert rows["latency_p50"]["params"] == {"scenario": "storm", "driver": "locust", "vans": 6, "role": "fleet"}


def test_a_soak_looks_at_memory_and_descriptors(url: str) -> None:
    """For two seconds; the figures of an hour are made the same way."""
    options = argparse.Namespace(
        seconds=2.0, share=0.5, vans=8, probe=64, verify_states=0, allow_mb=1e4, allow_files=1e4
    )
    rows = {row["name"]: row for row in soak(url, options)}
    assert rows["resident_memory"]["value"] > 1e7
    assert rows["open_files"]["value"] > 8
    assert rows["capacity"]["value"] > rows["offered_load"]["value"] > 0
    assert {row["params"]["scenario"] for row in rows.values()} == {"soak"}


def test_what_grows_is_not_flat() -> None:
    """By the medians of the last and of the second quarter."""
    assert growth([9.0, 9.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]) == 0
    assert growth([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 7.0, 7.0]) == 6
    with pytest.raises(LoadError, match="too few"):
        growth([1.0] * 7)
    grown = [{"name": "resident_memory_growth", "value": 2e6}]
    flat(grown, {"resident_memory_growth": 3e6})
    with pytest.raises(LoadError, match="resident_memory_growth is 2,000,000"):
        flat(grown, {"resident_memory_growth": 1e6})


def test_the_makers_of_load_know_nothing_of_the_service() -> None:
    """They speak HTTP: none of our packages is imported in loadtest/."""
    folder = Path(__file__).parents[2] / "loadtest"
    for file in folder.glob("*.py"):
        for line in file.read_text().splitlines():
            assert not line.startswith(
                ("from service", "from model", "from kernels", "import service", "import model")
            ), f"{file.name}: {line}"
