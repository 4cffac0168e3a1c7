"""One scenario against a service on this machine, its figures, and the proof that nothing was lost.

    python -m loadtest.run steady --start-service
    python -m loadtest.run storm --driver locust --vans 200 --seconds 30 --url http://127.0.0.1:8000

Scenarios: steady, rush, storm, backfill, hot (loadtest/scenarios.py). Drivers: `open` (loadtest/open_loop.py) keeps to its times
whatever the service does; `locust` (extra `load`) is one Locust user for each van. Stops by itself. Prints the
report as JSON (`emberwatch bench show` makes tables and plots of it); exit code 1 and no report if a sample was lost or refused.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from loadtest.measure import Row, rows_of, write_report
from loadtest.open_loop import drive
from loadtest.scenarios import SCENARIOS, Plan, Size
from loadtest.target import loopback, scrape, started_service
from loadtest.vans import LoadError, make_vans
from loadtest.verify import check_counts, check_states, some_of

LOCUST_LIMIT_S = 900.0  # beyond the plan: most of it is the scan over what was sent, on a busy machine
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
CLASSES = {
    "steady": "SteadyFleet",
    "rush": "MorningRush",
    "storm": "ReconnectStorm",
    "backfill": "Backfill",
    "hot": "HotVehicle",
}


def open_loop(plan: Plan, url: str, states: int) -> list[Row]:
    """Run, verify, and give the rows. Raises LoadError, OSError."""
    vans = make_vans(f"{plan.name}-{time.time_ns() // 1_000_000:x}", len(plan.roles))
    before = scrape(url)
    heard = asyncio.run(drive(plan, vans, url))
    after = scrape(url)
    check_counts(url, vans)
    check_states(url, some_of(vans, plan.roles, states))
    return rows_of(plan, "open", vans, heard, before, after)


def locust(plan: Plan, url: str, states: int) -> list[Row]:
    """The same by Locust, in a process of its own. Raises LoadError with what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        size = plan.size
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(LOCUSTFILE),
            CLASSES[plan.name],
            "--headless",
            "--host",
            url,
        ]
        command += ["--users", str(len(plan.roles)), "--spawn-rate", "1000", "--seconds", str(size.seconds)]
        command += ["--vans", str(size.vans), "--period", str(size.period_s), "--seed", str(size.seed)]
        command += ["--verify-states", str(states), "--rows", str(rows), "--loglevel", "WARNING", "--only-summary"]
        limit_s = size.seconds + LOCUST_LIMIT_S
        try:
            done = subprocess.run(
                command, cwd=LOCUSTFILE.parents[1], capture_output=True, text=True, check=False, timeout=limit_s
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"locust did not end within {limit_s:.0f} s") from error
        if done.returncode or not rows.exists():
            raise LoadError(f"locust ended with {done.returncode}:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
        found: list[Row] = json.loads(rows.read_text())
        return found


def warm_up(url: str) -> None:
    """What is compiled or loaded with the first samples is not what is measured. Raises LoadError."""
    van = make_vans(f"warm-{time.time_ns() // 1_000_000:x}", 1)[0]
    with httpx.Client(base_url=url, timeout=60.0) as http:
        for n in (*[1] * 20, 300):
            van.made += n
            while van.acknowledged < van.made:
                first, body = van.request()
                answer = http.post(van.path, content=body, headers={"Content-Type": "application/json"})
                van.hear(first, answer.status_code, answer.content)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=[*SCENARIOS, "all"], nargs="+")
    parser.add_argument("--driver", choices=("open", "locust"), default="open")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running service on this machine")
    parser.add_argument("--start-service", action="store_true", help="start one of our own for each scenario instead")
    parser.add_argument("--vans", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=float, default=0.5, help="seconds from sample to sample of a van")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verify-states", type=int, default=3, help="vans whose state is computed again offline")
    parser.add_argument("--report", type=Path, help="where the JSON goes [standard output]")
    options = parser.parse_args()
    try:
        size = Size(options.vans, options.seconds, options.period, options.seed)
        url = loopback(options.url)
        rows: list[Row] = []
        for name in SCENARIOS if "all" in options.scenario else options.scenario:
            plan = SCENARIOS[name](size)
            with started_service() if options.start_service else contextlib.nullcontext(url) as target:
                warm_up(target)
                run = locust if options.driver == "locust" else open_loop
                rows += run(plan, target, options.verify_states)
            print(f"{name}: nothing lost", file=sys.stderr)
    except (LoadError, OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        raise SystemExit(f"loadtest: {error}") from error
    write_report(rows, options.report)


if __name__ == "__main__":
    main()
