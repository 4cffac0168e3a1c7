"""What the engine knows of a batch on its way, and what its rows are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.advance import Advanced, Batch
from service.engine.commits import Plan
from service.engine.runs import Runs
from service.engine.verdict import NOWHERE, Judgement
from service.records.head import Heads
from service.records.whole import taken
from service.samples import Answers, Samples, Status
from service.store.changes import Commit

logger = structlog.get_logger(__name__)

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]
Fates = NDArray[np.int8]


class Fate(IntEnum):
    """What has to happen to a vehicle, or to a row of it, after an attempt."""

    DONE = 0  # answered
    AGAIN = 1  # another worker was faster
    UNKNOWN = 2  # its part of the store did not answer: to be deferred


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch with its verdicts.

    Attributes:
        runs: its rows, grouped.
        slots: (vehicles,).
        lengths: (vehicles,) accepted rows of each.
        before: (vehicles,) heads before the batch.
        heads: (vehicles,) that have taken in the order of what is accepted.
        judgement: of the rows.
        answers: to the rows, grouped; those accepted are to be filled in.
    """

    runs: Runs
    slots: Longs
    lengths: Longs
    before: Heads
    heads: Heads
    judgement: Judgement
    answers: Answers


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done for vehicles of which rows were accepted.

    Attributes:
        judged: the batch.
        vehicle_ids: whose rows.
        rows: (rows,) places of the accepted rows among the grouped ones.
        batch, plan: for the network, for the commit.
        whole: every row of every vehicle was accepted.
    """

    judged: Judged
    vehicle_ids: list[str]
    rows: Longs
    batch: Batch
    plan: Plan
    whole: bool


def in_order(judged: Judged, fates: Fates) -> tuple[Answers, Fates]:
    """Answers and fates of the rows as they came, from those of the grouped rows and of the vehicles."""
    runs, answers = judged.runs, judged.answers
    of_rows = np.where(answers.status == Status.INVALID, Fate.DONE, fates[runs.owner])
    if (runs.lengths == 1).all():
        return answers, of_rows
    ordered, ordered_fates = Answers.blank(len(of_rows), Status.DEFERRED), np.empty_like(of_rows)
    ordered.put(runs.order, answers)
    ordered_fates[runs.order] = of_rows
    return ordered, ordered_fates


def appends(commits: Sequence[Commit]) -> bool:
    """Whether all these commits only append to journals."""
    return all(commit.rebase is None for commit in commits)


def fill_in(work: Work, advanced: Advanced, won: Bools) -> None:
    """The answers to rows (rows,) that are now part of a state, and to those that repeat them."""
    answers, judgement = work.judged.answers, work.judged.judgement
    at, entries = work.rows[won], taken(advanced.entries, won)
    answers.status[at] = Status.APPLIED
    answers.seq[at], answers.phase[at] = entries["seq"], entries["phase"]
    answers.risk[at], answers.surprise[at] = entries["risk"], entries["surprise"]
    answers.warming_up[at] = advanced.warming_up[won]
    repeats = np.flatnonzero((judgement.twin != NOWHERE) & (answers.status == Status.DUPLICATE))
    for name in ("risk", "surprise", "phase"):
        column = getattr(answers, name)
        column[repeats] = column[judgement.twin[repeats]]


def refuse_not_finite(work: Work, owner: Longs, finite: Bools) -> None:
    """Refuse the first row of each vehicle that the model cannot take; the vehicle's others are tried without it."""
    bad = np.flatnonzero(~finite)
    if not len(bad):
        return
    samples, answers = work.judged.runs.samples, work.judged.answers
    firsts = work.rows[bad[np.unique(owner[bad], return_index=True)[1]]]
    for row in firsts.tolist():
        vehicle_id, ts_ms = samples.vehicle_ids[row], int(samples.ts_ms[row])
        logger.error("risk is not finite, sample refused", vehicle_id=vehicle_id, ts_ms=ts_ms)
    answers.seq[firsts] = samples.seq[firsts]
    answers.refuse(firsts.tolist(), Status.INVALID, "the model gives no finite risk for this sample")


def defer(samples: Samples, answers: Answers, rows: Longs, reason: str) -> None:
    """These rows are to be sent again."""
    answers.seq[rows] = samples.seq[rows]
    answers.refuse(rows.tolist(), Status.DEFERRED, reason)
