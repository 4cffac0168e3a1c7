"""Rows to learn from are what plain loops over the days give, and nothing in them is from after the evening."""

import numpy as np
import pytest

from model.studies.capacity.day_table import COLUMNS, DayTable
from model.studies.capacity.judged import split_days
from model.studies.capacity.local_days import weekday
from model.studies.capacity.panel import NAIVE, panel_of, rows_of

FIRST_DAY = 20_640  # 2026-07-06, a Monday


def made_up_days(rng: np.random.Generator, vans: int, days: int, lost: float = 0.05) -> DayTable:
    """Vans with a habit, fewer kilometres at the week's end, days that are lost."""
    van, day = (part.ravel() for part in np.indices((vans, days)))
    kept = rng.random(len(van)) >= lost
    van, day = van[kept], day[kept]
    works = np.array([weekday(FIRST_DAY + d) < 5 for d in range(days)])[day] | (rng.random(len(day)) < 0.2)
    used = np.where(works, (15.0 + 3.0 * van) * rng.uniform(0.8, 1.2, len(day)), 0.1)
    values = {name: np.full(len(day), np.nan) for name in COLUMNS}
    values |= {
        "covered_h": np.full(len(day), 24.0), "used_kwh": used, "depot_kwh": 0.7 * used, "charged_kwh": used,
        "distance_km": 4.0 * used, "motor_min_70": np.maximum(0.0, used - 20.0), "pack_min_35": np.maximum(0.0, used - 25.0),
        "pack_kwh": np.full(len(day), 50.0),
    }  # fmt: skip
    names = np.array([f"van-{i:02d}" for i in range(vans)])
    depots = np.array([f"48.{i % 2}0 11.00" for i in range(vans)])
    return DayTable(names[van], depots[van], np.full(len(van), "UTC+1"), FIRST_DAY + day, values)


@pytest.mark.parametrize("horizon", [1, 7])
def test_targets_and_naive_forecasts_are_what_loops_give(horizon: int) -> None:
    """Sums ahead, the same weekday last week, the day again, the mean of the same weekdays."""
    table = made_up_days(np.random.default_rng(1), 4, 40)
    panel = panel_of(table, 18.0)
    known = {(v, d): u for v, d, u in zip(table.vehicle_id, table.day, table.values["used_kwh"], strict=True)}
    rows = rows_of(panel, "used_kwh", horizon)
    assert len(rows) > 100
    for i in range(len(rows)):
        van, evening = panel.vehicle_ids[rows.van[i]], panel.first_day + int(rows.origin[i])

        def on(day: int, van: str = van) -> float:
            return known.get((van, day), np.nan) if day >= panel.first_day else np.nan

        ahead = range(1, horizon + 1)
        right = {
            "y": sum(on(evening + day) for day in ahead),
            "last_week": sum(on(evening + day - 7) for day in ahead),
            "yesterday": horizon * on(evening),
            "weekday_mean": sum(np.nanmean([on(evening + day - 7 * week) for week in range(1, 5)]) for day in ahead),
        }
        found = {"y": rows.y[i], **{name: rows.naive[name][i] for name in NAIVE}}
        for name, value in right.items():
            np.testing.assert_allclose(found[name], value, err_msg=f"{van} {evening} {name}")


def test_nothing_of_a_row_but_its_target_is_from_after_its_evening() -> None:
    """Another future gives other targets, and the same features and naive forecasts."""
    table = made_up_days(np.random.default_rng(2), 3, 40)
    changed = {name: column.copy() for name, column in table.values.items()}
    later = table.day > FIRST_DAY + 25
    for column in changed.values():
        column[later] *= 1.1
    changed["covered_h"] = table.values["covered_h"]
    other = DayTable(table.vehicle_id, table.depot, table.zone, table.day, changed)
    for horizon in (1, 7):
        before, after = (rows_of(panel_of(t, 18.0), "used_kwh", horizon) for t in (table, other))
        past = panel_of(table, 18.0).first_day + before.origin <= FIRST_DAY + 25
        np.testing.assert_array_equal(before.x[past], after.x[past])
        assert not np.array_equal(before.y[past], after.y[past], equal_nan=True)


def test_a_day_that_was_hardly_heard_is_not_known() -> None:
    """And the panel ends where the usual vans do."""
    table = made_up_days(np.random.default_rng(3), 4, 30, lost=0.0)
    table.values["covered_h"][(table.vehicle_id == "van-01") & (table.day == FIRST_DAY + 5)] = 17.0
    table.values["covered_h"][(table.vehicle_id != "van-01") & (table.day == FIRST_DAY + 29)] = 2.0
    panel = panel_of(table, 18.0)
    assert panel.n_days == 29
    assert np.isnan(panel.values["used_kwh"][1, 5])
    assert np.isfinite(panel.values["used_kwh"][0, 5])


def test_days_ten_years_apart_are_refused_with_the_van() -> None:
    """A clock that is wrong must not become a grid of a million days."""
    table = made_up_days(np.random.default_rng(5), 1, 3, lost=0.0)
    table.day[-1] += 5_000
    with pytest.raises(ValueError, match=r"\(van-00\): is a clock wrong\?"):
        panel_of(table, 18.0)


def test_no_target_reaches_from_one_part_into_the_next() -> None:
    """Learned, calibrated, judged: in this order of days, and the last day is judged."""
    panel = panel_of(made_up_days(np.random.default_rng(4), 3, 60, lost=0.0), 18.0)
    split = split_days(panel.n_days, 14, 14)
    for horizon in (1, 7):
        parts = split.parts(rows_of(panel, "used_kwh", horizon), horizon)
        spans = [(int(part.origin.min()) + 1, int(part.origin.max()) + horizon) for part in parts]
        assert spans[0][1] < spans[1][0]
        assert spans[1][1] < spans[2][0]
        assert spans[2][1] == panel.n_days - 1
    with pytest.raises(ValueError, match="there are 30 days; forecasts take 49"):
        split_days(30, 14, 14)
