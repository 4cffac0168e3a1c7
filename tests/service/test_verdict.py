"""The identity of samples, and the verdicts that follow from it."""

from dataclasses import dataclass

import numpy as np
import pytest

from model.channels import VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from service.engine.runs import group
from service.engine.verdict import Judgement, judge, refusals
from service.records.head import HeadLayout, Heads
from service.records.journal import KEEP, JournalLayout, Rings, empty_rings, remember
from service.samples import CURRENT_EPOCH, NO_SEQ, Answers, Samples
from tests.service.workers import words

N = len(VAN_SCHEMA.channels)
START_MS = 1_760_000_000_000
FOR_EVER = 2**62
SLOT = np.array([3])
JOURNALS = JournalLayout(VAN_SCHEMA.d_input)
LAYOUT = HeadLayout(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N, (1.0,) * N), 5.0), "0123456789abcdef" * 2)


def numbered(
    *seqs: int | None, ts_ms: int | None = None, epoch: int = CURRENT_EPOCH, value: float = 0.0, vehicle: str = "van"
) -> Samples:
    """Samples of one vehicle, five seconds a number, or all at `ts_ms`."""
    n = len(seqs)
    return Samples.of(
        [vehicle] * n,
        np.array([START_MS + 5_000 * (seq or 0) if ts_ms is None else ts_ms for seq in seqs], np.int64),
        np.array([NO_SEQ if seq is None else seq for seq in seqs], np.int64),
        np.full(n, epoch, np.int64),
        np.full((n, len(VAN_SCHEMA.signals)), value),
    )


@dataclass
class Session:
    """One vehicle's head and answers, without a network."""

    heads: Heads
    rings: Rings

    @staticmethod
    def new() -> "Session":
        """Nothing was accepted yet."""
        return Session(LAYOUT.new_session(1), empty_rings(5))

    def judge(self, samples: Samples, latest_ms: int = FOR_EVER) -> tuple[Judgement, Answers, Heads]:
        """Verdicts; the session stays as it is."""
        heads, runs = self.heads.copy(), group(samples)
        judgement = judge(heads, self.rings, SLOT, runs, latest_ms)
        return judgement, refusals(judgement, self.rings, SLOT, runs), heads

    def verdicts(self, samples: Samples, latest_ms: int = FOR_EVER) -> list[str]:
        """Their words; what is to be applied is still deferred."""
        return words(self.judge(samples, latest_ms)[1])

    def accept(self, samples: Samples, risk: float = 0.25) -> None:
        """Apply samples, all of which must be new."""
        judgement, _, heads = self.judge(samples)
        assert judgement.accepted.all()
        entries = JOURNALS.entries(len(samples))
        entries["seq"], entries["ts_ms"], entries["digest"] = judgement.seq, samples.ts_ms, samples.digest
        entries["risk"], entries["phase"] = risk, 1
        numbers = int(self.heads["accepted"][0]) + np.arange(len(samples))
        remember(self.rings, np.repeat(SLOT, len(samples)), numbers, entries)
        self.heads = heads


@pytest.fixture
def session() -> Session:
    """A session that has seen nothing."""
    return Session.new()


def test_verdicts_by_seq(session: Session) -> None:
    """New is applied, known is a duplicate, other content a conflict, skipped or old in time is late."""
    assert session.verdicts(numbered(0)) == ["deferred"]
    session.accept(numbered(0, 1, 5))
    assert session.verdicts(numbered(6)) == ["deferred"]
    assert session.verdicts(numbered(5)) == ["duplicate"]
    assert session.verdicts(numbered(5, value=1.0)) == ["conflict"]
    assert session.verdicts(numbered(3)) == ["late"]
    assert session.verdicts(numbered(6, ts_ms=START_MS)) == ["late"]
    assert session.verdicts(numbered(6, epoch=1)) == ["deferred"]
    assert session.verdicts(numbered(6, epoch=2)) == ["conflict"]


def test_a_retry_gets_its_answer_from_the_ring_and_later_its_verdict_only(session: Session) -> None:
    """Sixty-four answers are kept; older samples are still known, without numbers and without a look at their content."""
    for i in range(KEEP + 5):
        session.accept(numbered(i), risk=i / 100)
    _, answers, _ = session.judge(numbered(5, 4))
    assert words(answers) == ["duplicate", "duplicate"]
    assert answers.risk[0] == pytest.approx(0.05)
    assert np.isnan(answers.risk[1])
    assert (answers.phase[0], answers.phase[1]) == (1, -1)
    assert session.verdicts(numbered(4, value=9.0)) == ["duplicate"]


def test_verdicts_without_seq(session: Session) -> None:
    """The timestamp is the identity while it is remembered; older ones are late."""
    for i in range(KEEP + 5):
        session.accept(numbered(None, ts_ms=START_MS + i))
    assert session.verdicts(numbered(2, ts_ms=START_MS + 10_000)) == ["late"]  # a number we gave is nobody's duplicate
    newest = START_MS + KEEP + 4
    judgement, answers, _ = session.judge(numbered(None, ts_ms=newest))
    assert words(answers) == ["duplicate"]
    assert judgement.seq[0] == KEEP + 4
    assert session.verdicts(numbered(None, ts_ms=newest, value=2.0)) == ["conflict"]
    assert session.verdicts(numbered(None, ts_ms=START_MS)) == ["late"]
    assert session.verdicts(numbered(None, ts_ms=newest + 1)) == ["deferred"]


def test_rows_of_a_batch_are_judged_as_if_those_before_were_accepted(session: Session) -> None:
    """Order, repetition and content within one batch; the session itself does not move."""
    session.accept(numbered(0))
    judgement, answers, heads = session.judge(numbered(1, 3, 1, 2, 3, 4))
    assert words(answers) == ["deferred", "deferred", "duplicate", "late", "duplicate", "deferred"]
    assert judgement.twin.tolist() == [-1, -1, 0, -1, 1, -1]
    assert (int(heads["seq"][0]), int(heads["accepted"][0])) == (4, 4)
    assert int(session.heads["seq"][0]) == 0


def test_vehicles_of_a_batch_do_not_touch_each_other(session: Session) -> None:
    """The same numbers of two vehicles are two samples each."""
    one, two = numbered(0, 1), numbered(0, 1, vehicle="other")
    runs = group(Samples.of(
        one.vehicle_ids + two.vehicle_ids,
        *(np.concatenate([getattr(one, name), getattr(two, name)]) for name in ("ts_ms", "seq", "epoch", "signals")),
    ))  # fmt: skip
    heads = np.concatenate([session.heads, session.heads])
    judgement = judge(heads, session.rings, np.array([1, 2]), runs, FOR_EVER)
    assert judgement.accepted.all()
    assert heads["accepted"].tolist() == [2, 2]


def test_the_future_is_judged_by_the_limit_given(session: Session) -> None:
    """A sample after the latest acceptable instant is invalid, with by how much."""
    _, answers, _ = session.judge(numbered(0), START_MS - 1_500)
    assert words(answers) == ["invalid"]
    assert answers.errors[0][0].field == "ts"
    assert "1.5 s further ahead" in answers.reasons[0]
