"""Whether samples may change their vehicles' states, and what those are told that may not: a whole batch in one pass.

Identity is (vehicle, epoch, seq); without seq it is the timestamp. The pass is compiled; it takes each vehicle's rows in
order and counts those before as accepted. No clock, no store.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from model.jit import compiled, entry_point_for
from service.engine.runs import Runs
from service.records.accepted_seqs import append, contains
from service.records.head import Heads
from service.records.journal import KEEP, Rings
from service.samples import CURRENT_EPOCH, NO_SEQ, Answers, FieldError, Status

Longs = NDArray[np.int64]


class Verdict(IntEnum):
    """What the pass finds."""

    APPLY = 0
    DUPLICATE = 1
    OTHER_CONTENT = 2
    OTHER_EPOCH = 3
    IN_THE_FUTURE = 4
    SEQ_LATE = 5
    TS_LATE = 6


STATUS = {
    Verdict.APPLY: Status.APPLIED,
    Verdict.DUPLICATE: Status.DUPLICATE,
    Verdict.OTHER_CONTENT: Status.CONFLICT,
    Verdict.OTHER_EPOCH: Status.CONFLICT,
    Verdict.IN_THE_FUTURE: Status.INVALID,
    Verdict.SEQ_LATE: Status.LATE,
    Verdict.TS_LATE: Status.LATE,
}
_STATUS = np.array([STATUS[verdict] for verdict in Verdict], np.uint8)
NOWHERE = -1
LOOK_BACK = 256  # rows of a batch in which a repetition is looked for; further back only its seq is known
# As the plain numbers that the compiled pass reads and writes.
APPLY, DUPLICATE, OTHER_CONTENT, OTHER_EPOCH, IN_THE_FUTURE, SEQ_LATE, TS_LATE = (int(verdict) for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdicts on the rows (n,) of a batch.

    Attributes:
        verdict: a Verdict each.
        seq: the sample's number; given by us where the sender gave none.
        against: what it was judged by: the session's epoch, last seq or last ts; latest_ms.
        place: where in the vehicle's ring its stored answer is, or NOWHERE.
        twin: the row of this batch that it repeats, or NOWHERE.
    """

    verdict: NDArray[np.uint8]
    seq: Longs
    against: Longs
    place: Longs
    twin: Longs

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """(n,) which rows are to be applied."""
        return np.equal(self.verdict, Verdict.APPLY)


def judge(heads: Heads, rings: Rings, slots: Longs, runs: Runs, latest_ms: int) -> Judgement:
    """Judge a batch; `heads` take in what is accepted: order, count and intervals, in place.

    Args:
        heads: (vehicles,) working copies.
        rings: (n_slots, KEEP) answers by slot, not changed.
        slots: (vehicles,).
        runs: the rows, grouped.
        latest_ms: timestamps above this are in the future, epoch milliseconds.
    """
    samples, n = runs.samples, len(runs.order)
    found = Judgement(np.empty(n, np.uint8), *(np.empty(n, np.int64) for _ in range(4)))
    _judge_runs(
        heads["epoch"],
        heads["seq"],
        heads["last_ts_ms"],
        heads["accepted"],
        heads["n_intervals"],
        heads["intervals"],
        rings["seq"],
        rings["ts_ms"],
        rings["digest"],
        slots,
        runs.lengths,
        samples.ts_ms,
        samples.seq,
        samples.epoch,
        samples.digest,
        latest_ms,
        found.verdict,
        found.seq,
        found.against,
        found.place,
        found.twin,
    )
    return found


def _array(dtype: type[np.generic], ndim: int = 1, layout: Any = "C", *, readonly: bool = False) -> Any:
    return numba.types.Array(numba.from_dtype(np.dtype(dtype)), ndim, layout, readonly=readonly)


def _compiled(function: Any) -> Any:
    """Compile for the types that `judge` passes, when the service is imported and never while it serves."""
    column = _array(np.int64, readonly=True)
    return entry_point_for(
        function,
        _array(np.uint32, 1, "A"),
        _array(np.int64, 1, "A"),
        _array(np.int64, 1, "A"),
        _array(np.uint32, 1, "A"),
        _array(np.uint32, 1, "A"),
        _array(np.int64, 3, "A"),
        _array(np.int64, 2, "A"),
        _array(np.int64, 2, "A"),
        _array(np.uint64, 2, "A"),
        column,
        column,
        column,
        column,
        column,
        _array(np.uint64, readonly=True),
        numba.types.int64,
        _array(np.uint8),
        *(_array(np.int64) for _ in range(4)),
    )


@compiled
def stored_place(ring_key: Any, ring_seq: Any, key: int) -> int:
    """Where a ring (KEEP,) has the answer to the sample of this seq (or ts), or NOWHERE."""
    for i in range(KEEP):
        if ring_key[i] == key and ring_seq[i] != NO_SEQ:
            return i
    return NOWHERE


@compiled
def twin_row(verdict: Any, keys: Any, first: int, row: int, key: int) -> int:
    """The row of this batch, from `first` up to `row`, that was accepted with this seq (or ts), or NOWHERE."""
    for before in range(row - 1, max(first, row - LOOK_BACK) - 1, -1):
        if verdict[before] == APPLY and keys[before] == key:
            return before
    return NOWHERE


@compiled
def compare(known: bool, same: bool, late: int) -> int:
    """The verdict on a sample that is not ahead of what was accepted."""
    if not known:
        return late
    return DUPLICATE if same else OTHER_CONTENT


@_compiled
def _judge_runs(  # noqa: C901, PLR0912  (a verdict is a list of cases; in one place they can be checked)
    epoch: Any,
    last_seq: Any,
    last_ts: Any,
    accepted: Any,
    n_intervals: Any,
    intervals: Any,
    ring_seq: Any,
    ring_ts: Any,
    ring_digest: Any,
    slots: Any,
    lengths: Any,
    ts_ms: Any,
    seq: Any,
    sample_epoch: Any,
    digest: Any,
    latest_ms: Any,
    verdict: Any,
    number: Any,
    against: Any,
    place: Any,
    twin: Any,
) -> None:
    """Vehicle after vehicle, row after row; the first six describe the vehicles and move along."""
    end = 0
    for v in range(len(lengths)):
        first, end, slot = end, end + lengths[v], slots[v]
        for row in range(first, end):
            numbered = seq[row] != NO_SEQ
            number[row], against[row], place[row], twin[row] = seq[row], 0, NOWHERE, NOWHERE
            if sample_epoch[row] != CURRENT_EPOCH and sample_epoch[row] != epoch[v]:
                verdict[row], against[row] = OTHER_EPOCH, epoch[v]
            elif numbered and seq[row] <= last_seq[v]:
                twin[row] = twin_row(verdict, number, first, row, seq[row])
                place[row] = stored_place(ring_seq[slot], ring_seq[slot], seq[row])
                known, same = contains(intervals[v], n_intervals[v], seq[row]), True
                if twin[row] != NOWHERE:
                    known, same = True, digest[twin[row]] == digest[row]
                elif place[row] != NOWHERE:
                    known, same = True, ring_digest[slot, place[row]] == digest[row]
                verdict[row], against[row] = compare(known, same, SEQ_LATE), last_seq[v]
            elif not numbered and ts_ms[row] <= last_ts[v]:
                twin[row] = twin_row(verdict, ts_ms, first, row, ts_ms[row])
                place[row] = stored_place(ring_ts[slot], ring_seq[slot], ts_ms[row])
                known, same = False, False
                if twin[row] != NOWHERE:
                    known, same, number[row] = True, digest[twin[row]] == digest[row], number[twin[row]]
                elif place[row] != NOWHERE:
                    known, same = True, ring_digest[slot, place[row]] == digest[row]
                    number[row] = ring_seq[slot, place[row]]
                verdict[row], against[row] = compare(known, same, TS_LATE), last_ts[v]
            elif ts_ms[row] > latest_ms:  # after what was accepted: our clock may have stepped back since
                verdict[row], against[row] = IN_THE_FUTURE, latest_ms
            elif ts_ms[row] <= last_ts[v]:
                verdict[row], against[row] = TS_LATE, last_ts[v]
            else:
                verdict[row] = APPLY
                if numbered:
                    n_intervals[v] = append(intervals[v], n_intervals[v], seq[row])
                else:
                    number[row] = last_seq[v] + 1  # the version moves with every sample
                last_seq[v], last_ts[v] = number[row], ts_ms[row]
                accepted[v] += 1


def refusals(judgement: Judgement, rings: Rings, slots: Longs, runs: Runs) -> Answers:
    """Answers to all rows (n,) that need no step: refusals with their reasons, retries with what was answered before.

    Rows that repeat another of this batch get that one's answer later; those to be applied are `deferred` until then.
    """
    answers = Answers.blank(len(runs.order), Status.DEFERRED)
    told = np.flatnonzero(~judgement.accepted)
    if not len(told):
        return answers
    answers.status[told] = _STATUS[judgement.verdict[told]]
    answers.seq[told] = judgement.seq[told]
    stored = told[(judgement.verdict[told] == Verdict.DUPLICATE) & (judgement.place[told] != NOWHERE)]
    recalled = rings[slots[runs.owner[stored]], judgement.place[stored]]
    answers.risk[stored], answers.surprise[stored] = recalled["risk"], recalled["surprise"]
    answers.phase[stored] = recalled["phase"]
    for row in told[judgement.verdict[told] != Verdict.DUPLICATE].tolist():
        answers.reasons[row] = reason = explain(judgement, runs, row)
        if judgement.verdict[row] == Verdict.IN_THE_FUTURE:
            answers.errors[row] = (FieldError("ts", reason),)
    return answers


def explain(judgement: Judgement, runs: Runs, row: int) -> str:
    """Why a row was refused."""
    verdict, against = Verdict(int(judgement.verdict[row])), int(judgement.against[row])
    samples = runs.samples
    ts_ms, seq, epoch = int(samples.ts_ms[row]), int(samples.seq[row]), int(samples.epoch[row])
    if verdict is Verdict.OTHER_EPOCH:
        over = "is over" if epoch < against else "has not begun"
        return f"epoch {epoch} {over}; the current session is epoch {against}"
    if verdict is Verdict.IN_THE_FUTURE:
        return f"ts is {(ts_ms - against) / 1000:.1f} s further ahead of the server's clock than allowed"
    if verdict is Verdict.OTHER_CONTENT:
        name = f"seq {seq}" if seq != NO_SEQ else f"ts {ts_ms}"
        return f"{name} was accepted before with other content"
    if verdict is Verdict.SEQ_LATE:
        return f"seq {seq} comes after seq {against} was accepted"
    return f"ts is {(against - ts_ms) / 1000:.3f} s before the last accepted sample's"
