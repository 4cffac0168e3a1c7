"""The scenarios for Locust: one user is one van.

    locust -f loadtest/locustfile.py ReconnectStorm --headless --host http://127.0.0.1:8000 --users 200 --spawn-rate 1000
    python -m loadtest.run storm --driver locust --vans 200            # the same, with a report

Name one class. `--users` is the number of vans of the plan (Backfill has four more than --vans, HotVehicle one). Users wait until
all are there; then the plan begins, and when every van has its last answer the run ends. Exit code 1 if something was lost.
Locust's own figures are of requests; `--rows` writes ours, which count from when a sample was due.
"""

import itertools
import json
import time
from argparse import ArgumentParser
from collections import deque
from pathlib import Path
from typing import Any

import gevent.event
from locust import FastHttpUser, constant, events, task
from locust.exception import StopUser

from loadtest.measure import Heard, rows_of
from loadtest.scenarios import SCENARIOS, Event, Plan, Size
from loadtest.target import loopback, scrape
from loadtest.vans import LoadError, Van, make_vans
from loadtest.verify import check_counts, check_states, some_of

RETRY_S = 0.25
TRIES = 200


class Run:
    """What the users of one run share."""

    def __init__(self, plan: Plan, url: str) -> None:
        self.plan, self.url = plan, url
        self.vans = make_vans(f"{plan.name}-{time.time_ns() // 1_000_000:x}", len(plan.roles))
        self.events: list[list[Event]] = [[] for _ in self.vans]
        for event in plan.events():
            self.events[event.van].append(event)
        self.before = scrape(url)
        self.heard = Heard(time.perf_counter())
        self.numbers = itertools.count()
        self.begun = gevent.event.Event()
        self.driving = len(self.vans)


RUN: dict[str, Run] = {}


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """The size of the run."""
    parser.add_argument("--vans", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=float, default=0.5, help="seconds from sample to sample of a van")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verify-states", type=int, default=3, help="vans whose state is computed again offline")
    parser.add_argument("--rows", default="", help="where our figures go, as JSON")


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Make the plan. Raises SystemExit when it is not one class, or not this machine."""
    if len(environment.user_classes) != 1:
        raise SystemExit(f"name one scenario: {', '.join(sorted(c.__name__ for c in environment.user_classes))}")
    given = environment.parsed_options
    try:
        plan = SCENARIOS[environment.user_classes[0].scenario](
            Size(given.vans, given.seconds, given.period, given.seed)
        )
        RUN["it"] = Run(plan, loopback(environment.host))
    except ValueError as error:
        raise SystemExit(str(error)) from error


@events.spawning_complete.add_listener
def go(user_count: int, **_: Any) -> None:
    """All vans are there."""
    run = RUN["it"]
    if user_count >= len(run.vans) and not run.begun.is_set():
        run.heard.begin()
        run.begun.set()


@events.quitting.add_listener
def verify(environment: Any, **_: Any) -> None:
    """Nothing was lost, or the exit code is 1."""
    run = RUN["it"]
    try:
        run.heard.raise_failure()
        after = scrape(run.url)
        check_counts(run.url, run.vans)
        check_states(run.url, some_of(run.vans, run.plan.roles, environment.parsed_options.verify_states))
    except LoadError as error:
        print(f"LOST: {error}")
        environment.process_exit_code = 1
        return
    if environment.parsed_options.rows:
        rows = rows_of(run.plan, "locust", run.vans, run.heard, run.before, after)
        Path(environment.parsed_options.rows).write_text(json.dumps(rows))


class VanUser(FastHttpUser):
    """One van: it waits until something is due, sends it, and sends it again until it is acknowledged."""

    abstract = True
    scenario = ""
    wait_time = constant(0)
    max_retries = 0
    network_timeout = 30.0

    @task
    def drive(self) -> None:
        """All events of one van."""
        run = RUN["it"]
        number = next(run.numbers)
        if number >= len(run.vans):
            raise StopUser
        run.begun.wait()
        try:
            mine = deque(run.events[number])
            while mine:
                gevent.sleep(max(0.0, run.heard.started + mine[0].due_s - time.perf_counter()))
                now = time.perf_counter()
                due = [mine.popleft()]
                while mine and run.heard.started + mine[0].due_s <= now:  # what it could not send goes together
                    due.append(mine.popleft())
                if any(event.reconnect for event in due):
                    self.client.client.close()
                self.send(run.vans[number], sum(event.samples for event in due), max(event.again for event in due))
                run.heard.last = time.perf_counter()
                for event in due:
                    at = run.heard.started + event.due_s
                    run.heard.late.append(max(0.0, now - at))
                    run.heard.note(number, at, run.heard.last)
        except LoadError as error:
            run.heard.failed = error
        run.driving -= 1
        if not run.driving:
            self.environment.runner.quit()
        raise StopUser

    def send(self, van: Van, samples: int, again: int) -> None:
        """Make samples and send until everything is acknowledged. Raises LoadError."""
        van.made += samples
        for _ in range(TRIES):
            first, body = van.request(again)
            again = 0
            headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
            with self.client.post(
                van.path, data=body.decode(), headers=headers, name="telemetry", catch_response=True
            ) as answer:
                done = bool(answer.status_code) and van.hear(first, answer.status_code, answer.content or b"")
                answer.success() if done else answer.failure(f"sent again after {answer.status_code}")
            if van.acknowledged == van.made:
                return
            gevent.sleep(0.0 if done else RETRY_S)
        raise LoadError(f"{van} was not answered {TRIES} times")


class SteadyFleet(VanUser):
    """Every van sends one sample each period."""

    scenario = "steady"


class MorningRush(VanUser):
    """A tenth drives, the others set out."""

    scenario = "rush"


class ReconnectStorm(VanUser):
    """An outage, then all at once."""

    scenario = "storm"


class Backfill(VanUser):
    """Long arrays beside a steady fleet."""

    scenario = "backfill"


class HotVehicle(VanUser):
    """One van sends fifty times as often."""

    scenario = "hot"
