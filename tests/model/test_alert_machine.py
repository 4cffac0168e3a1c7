"""The alert machine against a plain one, and over courses of a value that an operator would draw."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.alert_machine import (
    NOWHEN,
    MachineLimits,
    Phase,
    Severity,
    advance_machines,
    names_of,
    new_machines,
    pass_time,
)

LIMITS = MachineLimits(0.5, 0.3, 0.8, for_ms=60_000, keep_firing_ms=120_000, stale_after_ms=300_000, warmup_samples=3)
START_MS = 1_000_000
Event = tuple[int, str]  # which sample, and what it changed


@dataclass
class PlainMachine:
    """What docs/alerts.md says, one sentence after the other; shares no code with the machine."""

    limits: MachineLimits
    phase: str = "inactive"
    crossed: int = 0
    fired: int = 0
    low_since: int | None = None
    critical_since: int | None = None
    critical: bool = False
    level: float = 0.0
    seen: int = 0
    told: list[str] = field(default_factory=list)

    def sample(self, now: int, gap: int, value: float) -> list[str]:
        """The changes that a sample brings."""
        self.told, of = [], self.limits
        if self.phase == "pending" and gap >= max(of.for_ms, 60_000):
            self.fire(now - gap + max(of.for_ms, 60_000))
        if self.phase == "recovering" and gap >= of.stale_after_ms:
            self.low_since = now
        warm, self.seen = self.seen >= of.warmup_samples, self.seen + 1
        if math.isnan(value):
            return self.told
        if of.smoothing_ms:
            value = self.level + (1 - math.exp(-gap / of.smoothing_ms)) * (min(value, of.highest) - self.level)
            self.level = float(np.float32(value))  # so it is kept in the head
        if warm:
            self.take(now, value)
        return self.told

    def take(self, now: int, value: float) -> None:  # noqa: C901  (the truth in one place)
        """A value that is known."""
        of = self.limits
        if self.phase == "inactive" and value >= of.threshold:
            self.phase, self.crossed, self.critical, self.critical_since = "pending", now, False, None
            self.told.append("pending")
        if self.phase == "inactive":
            return
        if self.phase == "pending" and value < of.threshold:
            self.phase = "inactive"
            self.told.append("lapsed")
            return
        if self.phase in {"firing", "recovering"} and value < of.resolve_threshold:
            self.low(now)
            return
        if self.phase == "recovering":
            self.phase, self.critical_since = "firing", None
            self.told.append("relapsed")
        if value < of.critical_threshold:
            self.critical_since = None
        elif self.critical_since is None:
            self.critical_since = now
        if self.phase == "pending":
            if now - self.crossed >= of.for_ms:
                self.fire(now)
        elif not self.critical and self.lasted(now):
            self.critical = True
            self.told.append("escalated")

    def low(self, now: int) -> None:
        """The value is under the lower threshold."""
        if self.phase == "firing":
            self.phase, self.low_since = "recovering", now
            self.told.append("recovering")
        assert self.low_since is not None
        if now - self.low_since >= self.limits.keep_firing_ms:
            self.phase = "inactive"
            self.told.append("resolved")

    def lasted(self, now: int) -> bool:
        """Whether it has been critical for long enough."""
        return self.critical_since is not None and now - self.critical_since >= self.limits.for_ms

    def fire(self, now: int) -> None:
        """Pending for long enough."""
        self.phase, self.fired, self.critical = "firing", now, self.lasted(now)
        self.told.append("firing")


def run(
    values: list[float], gaps: list[int], limits: MachineLimits = LIMITS, seen: int = 10
) -> tuple[list[Event], NDArray[np.void]]:
    """Changes of one machine over one course, and the machine after it."""
    machines, gap_ms = new_machines((1, 1)), np.array(gaps, np.int64)
    course = advance_machines(
        machines,
        np.array([seen]),
        np.array([len(values)]),
        START_MS + np.cumsum(gap_ms),
        gap_ms,
        np.array(values, np.float64).reshape(-1, 1),
        limits.packed(),
    )
    told = [
        (int(row), name) for row, bits in zip(course.row, course.changes, strict=True) for name in names_of(int(bits))
    ]
    return told, machines[0, 0]


def names(values: list[float], step_s: float = 30.0, limits: MachineLimits = LIMITS, seen: int = 10) -> list[str]:
    """What happens over a course without gaps."""
    return [name for _, name in run(values, [round(1_000 * step_s)] * len(values), limits, seen)[0]]


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.29, 0.3, 0.4, 0.49, 0.5, 0.7, 0.79, 0.8, 0.95, math.nan]),
                       st.sampled_from([1, 5_000, 5_000, 30_000, 59_999, 60_000, 61_000, 299_999, 300_000, 4_000_000])),
             max_size=60),
    st.sampled_from([0, 30_000, 60_000, 90_000]),
    st.sampled_from([0, 60_000, 400_000]),
    st.sampled_from([0, 5]),
    st.sampled_from([0.0, 20_000.0]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_the_machine_is_the_plain_one(
    samples: list[tuple[float, int]], for_ms: int, keep_ms: int, warmup: int, smoothing_ms: float
) -> None:
    """Over any course with gaps, holes, warm-up and smoothing, the same changes at the same samples, and the same end."""
    limits = replace(
        LIMITS, for_ms=for_ms, keep_firing_ms=keep_ms, warmup_samples=warmup, smoothing_ms=smoothing_ms, highest=0.9
    )
    plain, expected, now = PlainMachine(limits), [], START_MS
    for i, (value, gap) in enumerate(samples):
        now += gap
        expected += [(i, name) for name in plain.sample(now, gap, value)]
    told, machine = run([value for value, _ in samples], [gap for _, gap in samples], limits, seen=0)
    assert told == expected
    assert Phase(int(machine["phase"])).name.lower() == plain.phase
    if plain.phase in {"firing", "recovering"}:
        assert (int(machine["first_crossed_ms"]), int(machine["fired_ms"])) == (plain.crossed, plain.fired)
        assert bool(machine["severity"]) == plain.critical


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.49], []),
        ([0.6], ["pending"]),
        ([0.6, 0.6, 0.6], ["pending", "firing"]),
        ([0.6, 0.6, 0.4], ["pending", "lapsed"]),
        ([0.6] * 3 + [0.4] * 9, ["pending", "firing"]),  # between the thresholds: hysteresis
        ([0.6] * 3 + [0.2] * 4, ["pending", "firing", "recovering"]),
        ([0.6] * 3 + [0.2] * 5, ["pending", "firing", "recovering", "resolved"]),
        (
            [0.6] * 3 + [0.2, 0.2, 0.4] * 2,
            ["pending", "firing", *["recovering", "relapsed"] * 2],
        ),  # low, never for long
        ([0.6] * 3 + [0.9] * 3, ["pending", "firing", "escalated"]),
        ([0.9] * 3, ["pending", "firing"]),  # fires as critical: told once
        ([0.6] * 3 + [0.9, 0.6] * 5, ["pending", "firing"]),  # critical for moments only
        ([0.6] * 3 + [0.2] * 5 + [0.7] * 3, ["pending", "firing", "recovering", "resolved", "pending", "firing"]),
    ],
)
def test_courses(values: list[float], expected: list[str]) -> None:
    """Pending on crossing, firing after a minute, resolved after two minutes below the lower threshold."""
    assert names(values) == expected


@pytest.mark.parametrize("low", [0.49, 0.31, 0.2])
def test_flutter_around_the_threshold_is_one_alert(low: float) -> None:
    """A value that crosses the threshold at every sample for two hours never fires; once fired it never fires again."""
    flutter = [0.51, low] * 720
    assert "firing" not in names(flutter, step_s=5.0)
    told = names([0.6] * 13 + flutter, step_s=5.0)
    assert told.count("firing") == told.count("pending") == 1
    assert "resolved" not in told


def test_nothing_happens_while_warming_up() -> None:
    """The first samples of a session cannot raise; after a cold start they cannot resolve either."""
    assert names([0.9] * 3, seen=0) == []
    assert names([0.9] * 4, seen=0) == ["pending"]
    _, machine = run([0.6] * 3, [30_000] * 3)
    cold = np.array([[machine]], machine.dtype)
    course = advance_machines(
        cold, np.array([0]), np.array([3]), START_MS + 60_000 * np.arange(5, 8), np.full(3, 60_000), np.zeros((3, 1)), LIMITS.packed()
    )  # fmt: skip
    assert not len(course.row)
    assert cold[0, 0]["phase"] == Phase.FIRING


def test_a_value_that_is_not_known_changes_nothing() -> None:
    """Holes in the surprise neither raise nor resolve."""
    assert names([0.6] * 3 + [math.nan] * 20) == ["pending", "firing"]
    assert names([0.6, math.nan, 0.6]) == ["pending", "firing"]


def test_silence_fires_what_is_pending_and_resolves_nothing() -> None:
    """After a minute of silence a pending alert fires, from then on; a recovery begins again after five."""
    told, machine = run([0.6, 0.2], [5_000, 3_600_000])
    assert told == [(0, "pending"), (1, "firing"), (1, "recovering")]
    assert machine["fired_ms"] == START_MS + 5_000 + 60_000
    told, machine = run([0.6] * 3 + [0.2, 0.2], [30_000] * 4 + [3_600_000])
    assert told[-1] == (3, "recovering")
    assert machine["since_ms"] == START_MS + 4 * 30_000 + 3_600_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.4, 0.6, 0.9]),
            st.sampled_from([5_000, 30_000, 60_000, 61_000, 299_999, 300_000, 4_000_000]),
            st.lists(st.floats(0.0, 1.0), max_size=3),
        ),
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_it_makes_no_difference_whether_somebody_watched_the_silence(
    samples: list[tuple[float, int, list[float]]],
) -> None:
    """Swept at any instants of any gaps, the same alerts fire and resolve, with the same times, as when only samples count."""
    alone, _ = run([value for value, _, _ in samples], [gap for _, gap, _ in samples])
    machines, now, told, fired = new_machines((1, 1)), START_MS, [], []
    for i, (value, gap, sweeps) in enumerate(samples):
        for share in sorted(sweeps):
            last, silence = np.array([now]), np.array([int(share * gap)])
            bits = int(pass_time(machines, last, silence, LIMITS.packed())[0, 0])
            told += [(i, name) for name in names_of(bits)]
        now += gap
        course = advance_machines(
            machines, np.array([10 + i]), np.array([1]), np.array([now]), np.array([gap]), np.array([[value]]), LIMITS.packed()
        )  # fmt: skip
        told += [(i, name) for bits in course.changes for name in names_of(int(bits))]
        fired.append(int(machines[0, 0]["fired_ms"]))
    assert [change for change in told if change[1] not in {"stale", "fresh"}] == alone
    silences = [name for _, name in told if name in {"stale", "fresh"}]
    assert silences == ["stale", "fresh"] * (len(silences) // 2)
    ends = [
        int(run([v for v, _, _ in samples[: i + 1]], [g for _, g, _ in samples[: i + 1]])[1]["fired_ms"])
        for i in range(len(samples))
    ]
    assert fired == ends


def test_vehicles_and_rules_do_not_touch_each_other() -> None:
    """A batch of runs of several vehicles and two rules gives what each course gives alone."""
    rng = np.random.default_rng()
    lengths = np.array([1, 40, 0, 17])
    values = rng.choice([0.2, 0.4, 0.6, 0.9], size=(lengths.sum(), 2))
    gaps = rng.choice([5_000, 30_000, 90_000], size=lengths.sum())
    limits = np.concatenate([LIMITS.packed(), replace(LIMITS, threshold=0.4, for_ms=0).packed()])
    machines, ends = new_machines((4, 2)), np.cumsum(lengths)
    ts = np.concatenate([START_MS + np.cumsum(gaps[end - n : end]) for end, n in zip(ends, lengths, strict=True)])
    course = advance_machines(machines, np.full(4, 10), lengths, ts, gaps, values, limits)
    for vehicle, (end, n) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        for rule in range(2):
            one = LIMITS if rule == 0 else replace(LIMITS, threshold=0.4, for_ms=0)
            told, alone = run(values[end - n : end, rule].tolist(), gaps[end - n : end].tolist(), one)
            mine = (course.row >= end - n) & (course.row < end) & (course.rule == rule)
            together = [
                (int(row) - end + n, name)
                for row, bits in zip(course.row[mine], course.changes[mine], strict=True)
                for name in names_of(int(bits))
            ]
            assert together == told
            assert machines[vehicle, rule].tobytes() == alone.tobytes()


def test_changes_are_numbered_and_the_severity_stays() -> None:
    """Each change of an episode has its number; an escalated alert resolves as critical; the next episode begins anew."""
    _, machine = run([0.6] * 3 + [0.9] * 3 + [0.2] * 5, [30_000] * 11)
    assert (int(machine["changes"]), int(machine["severity"])) == (5, Severity.CRITICAL)
    assert machine["peak"] == np.float32(0.9)
    _, machine = run([0.6] * 3 + [0.9] * 3 + [0.2] * 5 + [0.6], [30_000] * 12)
    assert (int(machine["changes"]), int(machine["severity"]), int(machine["fired_ms"])) == (
        1,
        Severity.WARNING,
        NOWHEN,
    )
    assert machine["peak"] == np.float32(0.6)


def test_thresholds_out_of_order_and_negative_times_are_refused() -> None:
    """With words that name them."""
    with pytest.raises(ValueError, match="thresholds must rise"):
        MachineLimits(0.5, 0.6)
    with pytest.raises(ValueError, match="thresholds must rise"):
        MachineLimits(0.5, 0.3, 0.4)
    with pytest.raises(ValueError, match="must not be negative"):
        MachineLimits(0.5, 0.3, for_ms=-1)
