"""The machine's clock steps back and forth under load."""

import itertools
import random
import time
from pathlib import Path

import httpx
import pytest

from tests.chaos.conftest import StartWorker
from tests.chaos.senders import Fleet
from tests.chaos.truth import check
from tests.chaos.vans import RETRYABLE
from tests.processes import ValkeyProcess, wait_until

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Clock:
    """The time of day of the processes that get its environment; what measures durations is left alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def set(self, seconds: int) -> None:
        """So far from the real time, within a second or two."""
        self._file.write_text(f"{seconds:+d}")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that can be stepped."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed: no clock can be stepped (Debian: apt-get install faketime)")
    return Clock(tmp_path)


def test_a_clock_that_steps_is_a_reason_to_wait_at_most(
    seed: int, rng: random.Random, tmp_path: Path, clock: Clock, start_worker: StartWorker
) -> None:
    """Service and store step by minutes and by an hour; live samples are refused as too far ahead at worst, never lost."""
    store = ValkeyProcess(tmp_path / "store", environment=clock.environment).start()
    try:
        worker = start_worker(store.url, environment=clock.environment)
        patient = RETRYABLE | {"invalid"}  # by its own clock the device is right
        now_ms = int(time.time() * 1_000)
        fleet = Fleet([worker.url], seed, start_ms=now_ms, interval_ms=100, retryable=patient, largest_array=1)
        with fleet.sending():
            for step in rng.sample([-3_600, -120, 900, -40_000], 4):
                time.sleep(rng.uniform(0.2, 0.5))
                clock.set(step)
                time.sleep(rng.uniform(2.0, 2.5))
            clock.set(0)
            time.sleep(2.5)
        check(worker.url, fleet.vans)
        assert fleet.outcomes["422"] + fleet.outcomes["207"] > 0, "the clock never stepped"
    finally:
        store.stop_if_running()


def test_a_retry_is_known_although_the_clock_stepped_back(
    tmp_path: Path, clock: Clock, start_worker: StartWorker
) -> None:
    """What was accepted is a duplicate, however far ahead it looks now; a new sample at that time is invalid."""
    store = ValkeyProcess(tmp_path / "store").start()
    try:
        worker = start_worker(store.url, environment=clock.environment)
        now_ms = int(time.time() * 1_000)
        sample = {"ts": now_ms, "seq": 1, "signals": {"speed": 3.0}}
        with httpx.Client(base_url=worker.url) as http:
            assert http.post("/v1/vehicles/van/telemetry", json=sample).json()["status"] == "applied"
            clock.set(-3_600)
            seqs = itertools.count()

            def refused() -> bool:
                probe = {"ts": now_ms + (seq := next(seqs)), "seq": seq, "signals": {"speed": 3.0}}
                return http.post("/v1/vehicles/another/telemetry", json=probe).status_code == 422

            wait_until(refused, "the clock to step", timeout_s=20)
            newer = sample | {"ts": now_ms + 5_000, "seq": 2}
            assert http.post("/v1/vehicles/van/telemetry", json=newer).status_code == 422
            again = http.post("/v1/vehicles/van/telemetry", json=sample)
            assert (again.status_code, again.json()["status"]) == (200, "duplicate"), again.text
    finally:
        store.stop_if_running()
