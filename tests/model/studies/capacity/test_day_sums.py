"""Days of telemetry are what counting every second gives, however the telemetry comes in."""

import os
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from model.studies.capacity.day_sums import DayCourse, Finished
from model.studies.capacity.local_days import DAY_MS, LocalClock, civil, iso_day, nautical
from tests.model.studies.capacity.telemetry import START_MS, counted_days, telemetry

BERLIN = "Europe/Berlin"
SEED = int(os.environ.get("EMBERWATCH_TEST_SEED", "20261122"))


def finished(clock: LocalClock, ts_ms: np.ndarray, signals: np.ndarray, cuts: list[int]) -> Finished:
    """The days of samples that come in as many batches as there are cuts, and one."""
    course = DayCourse(clock)
    parts = [course.advance(ts_ms[a:b], signals[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ts_ms)], strict=True)]
    parts.append(course.finish())
    return Finished(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("days", "charges")))


@pytest.mark.parametrize("offset", range(4))
def test_days_are_what_counting_every_second_gives(offset: int) -> None:
    """Gaps, absent, repeated and late samples, midnights and the end of summer time included."""
    ts_ms, signals = telemetry(np.random.default_rng(SEED + offset))
    expected = counted_days(ts_ms, signals, ZoneInfo(BERLIN))
    found = finished(civil(BERLIN), ts_ms, signals, [])
    assert [iso_day(day) for day in found.days["day"]] == [when.isoformat() for when in sorted(expected)]
    for day, when in zip(found.days, sorted(expected), strict=True):
        right = expected[when]
        for name in ("samples", "dropped", "covered_s", "moving_s", "known_s", "above_s"):
            np.testing.assert_allclose(day[name], getattr(right, name), atol=1e-6, err_msg=f"{when} {name}")
        for name in ("distance_m", "ambient_ks", "used_percent", "charged_percent"):
            np.testing.assert_allclose(day[name], getattr(right, name), rtol=1e-9, atol=1e-6, err_msg=f"{when} {name}")
        np.testing.assert_array_equal(day["highest"], right.highest)
    assert found.days["dropped"].sum() > 0
    assert found.charges["percent"].sum() == pytest.approx(found.days["charged_percent"].sum())


def test_batches_change_nothing() -> None:
    """Bit for bit: what is kept between batches is everything that matters."""
    rng = np.random.default_rng(SEED)
    ts_ms, signals = telemetry(rng)
    whole = finished(nautical(13.4), ts_ms, signals, [])
    cuts = sorted({0, 1, 2, *rng.integers(0, len(ts_ms), 50).tolist()})
    pieces = finished(nautical(13.4), ts_ms, signals, cuts)
    assert whole.days.tobytes() == pieces.days.tobytes()
    assert whole.charges.tobytes() == pieces.charges.tobytes()


def test_a_charge_knows_its_place_and_time() -> None:
    """Driving, then charging in sight: one charge, where the van stood."""
    ts_ms = START_MS + 30_000 * np.arange(40)
    speed = np.where(np.arange(40) < 10, 10.0, 0.0)
    charge = np.concatenate((np.linspace(60.0, 55.5, 10), np.linspace(55.5, 70.0, 30)))
    place = np.where(np.arange(40)[:, None] < 10, [48.0, 11.0], [48.1, 11.1])
    signals = np.column_stack((speed, charge, np.full((40, 3), 20.0), place))
    (one,) = finished(nautical(0.0), ts_ms, signals, []).charges
    assert one["percent"] == pytest.approx(14.5)
    assert (one["latitude"], one["longitude"]) == (48.1, 11.1)
    assert one["end_ms"] == ts_ms[-1]


def test_a_van_that_was_not_heard_while_it_charged_has_charged() -> None:
    """The change over a night's gap counts for the day after it."""
    ts_ms = np.array([START_MS, START_MS + 30_000, START_MS + DAY_MS // 2])
    signals = np.full((3, 7), np.nan)
    signals[:, 0], signals[:, 1] = [12.0, 12.0, 12.0], [30.0, 29.9, 95.0]
    days = finished(nautical(0.0), ts_ms, signals, []).days
    assert days["charged_percent"].tolist() == pytest.approx([0.0, 65.1])
    assert days["used_percent"].tolist() == pytest.approx([0.1, 0.0])
    assert days["covered_s"].tolist() == [90.0, 0.0]


@pytest.mark.parametrize("name", [BERLIN, "America/Phoenix", "Australia/Melbourne", "UTC"])
def test_a_zones_days_are_those_of_its_clocks(name: str) -> None:
    """Around every hour of a year, against the clock on the wall."""
    zone, first = ZoneInfo(name), round(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1_000)
    instants = first + 3_600_000 * np.arange(0, 366 * 24) + np.array([[-1], [0], [1]])
    for moments in instants:
        clock = civil(name).days(moments)
        wall = [datetime.fromtimestamp(ms / 1_000, zone).date().isoformat() for ms in moments.tolist()]
        assert [iso_day(day) for day in clock] == wall


def test_nautical_zones_are_whole_hours_by_longitude() -> None:
    """Fifteen degrees an hour, UTC without a fix; an unknown zone is refused by name."""
    assert [nautical(lon).name for lon in (None, 0.0, 11.56, -112.07, 144.96)] == [
        "UTC+0",
        "UTC+0",
        "UTC+1",
        "UTC-7",
        "UTC+10",
    ]
    with pytest.raises(ValueError, match="'Mars/Olympus'"):
        civil("Mars/Olympus")


def test_signals_of_another_shape_are_refused() -> None:
    """Compiled code does not look."""
    with pytest.raises(ValueError, match=r"2 samples need signals"):
        DayCourse(nautical(None)).advance(np.array([1, 2]), np.zeros((2, 6)))
