"""The head record, the identity of samples, and the verdicts that follow from them."""

import math

import numpy as np
import pytest

from model.channels import VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from service.head import (
    N_INTERVALS,
    N_RECENT,
    VERSION,
    HeadLayout,
    Heads,
    append_seq,
    read_version,
    record_accepted,
    was_accepted,
)
from service.verdict import Status, judge
from service.wire import Sample

N = len(VAN_SCHEMA.channels)
START_MS = 1_760_000_000_000
FINGERPRINT = "0123456789abcdef" * 2


@pytest.fixture
def layout() -> HeadLayout:
    """The layout of the van schema."""
    return HeadLayout(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N, (1.0,) * N), 5.0), FINGERPRINT)


def numbered(seq: int | None, *, ts_ms: int | None = None, epoch: int | None = None, value: float = 0.0) -> Sample:
    """A sample of one vehicle, five seconds a number."""
    ts_ms = START_MS + 5_000 * (seq or 0) if ts_ms is None else ts_ms
    return Sample("van", ts_ms, seq, epoch, np.full(len(VAN_SCHEMA.signals), value))


def accept(heads: Heads, sample: Sample, seq: int) -> None:
    """Apply a sample to a head without a network."""
    heads["risk"] = 0.25
    record_accepted(heads, [sample], np.array([seq]))


def verdict(heads: Heads, sample: Sample) -> Status | None:
    """Status of the judgement; None means apply."""
    answer = judge(heads[0], sample, math.inf)
    return None if answer is None else answer.status


def test_a_head_survives_its_bytes_and_begins_with_its_version(layout: HeadLayout) -> None:
    """Packing and unpacking is the identity; the version is readable without the rest of the layout."""
    heads = layout.new_session(3)
    accept(heads, numbered(7), 7)
    heads["nonce"] = 99
    again = layout.unpack(heads.tobytes())
    assert again.tobytes() == heads.tobytes()
    assert read_version(heads.tobytes()) == (3, 1, 7, 99, START_MS + 35_000)
    assert read_version(heads.tobytes()[: VERSION.size - 1]) is None


def test_another_layout_is_refused_and_its_session_salvaged(layout: HeadLayout) -> None:
    """A head of another size keeps epoch, seq and nonce; everything up to its seq counts as accepted."""
    foreign = VERSION.pack(5, 2, 41, 77, START_MS) + b"whatever a later version writes"
    with pytest.raises(ValueError, match="bytes"):
        layout.unpack(foreign)
    head = layout.salvage(foreign)[0]
    assert (int(head["epoch"]), int(head["seq"]), int(head["nonce"]), int(head["samples"])) == (5, 41, 77, 0)
    assert was_accepted(head, 40)
    assert not was_accepted(head, 42)
    assert verdict(head[None], numbered(42, ts_ms=START_MS)) is Status.LATE
    assert int(layout.salvage(b"short")["epoch"][0]) == 1


def test_a_cold_start_keeps_the_session(layout: HeadLayout) -> None:
    """Salvaging a head of our own layout forgets the model's part and keeps what was accepted."""
    heads = layout.new_session(2)
    for seq in (0, 1, 4):
        accept(heads, numbered(seq), seq)
    cold = layout.salvage(heads.tobytes())
    assert int(cold["samples"][0]) == 0
    assert np.isnan(cold["risk"][0])
    assert int(cold["preprocess"]["last_ts_ms"][0]) == -1
    assert verdict(cold, numbered(4)) is Status.DUPLICATE
    assert verdict(cold, numbered(3)) is Status.LATE
    assert verdict(cold, numbered(None, ts_ms=START_MS + 5_001)) is Status.LATE
    assert verdict(cold, numbered(9, ts_ms=START_MS + 19_999)) is Status.LATE
    accept(cold, numbered(5), 5)
    assert cold["recent"][0]["seq"][:5].tolist() == [0, 1, 4, 5, -1]


@pytest.mark.parametrize("seed", range(5))
def test_accepted_seqs_are_known_for_ever(layout: HeadLayout, seed: int) -> None:
    """Against a plain set: whatever was accepted is known; with few gaps, what was skipped is not."""
    rng = np.random.default_rng(seed)
    head = layout.new_session(1)[0]
    seqs = np.unique(rng.integers(0, 10_000, 2_000)).tolist() if seed else [s for s in range(500) if s % 20]
    for seq in seqs:
        append_seq(head, seq)
    assert all(was_accepted(head, seq) for seq in seqs)
    assert not was_accepted(head, max(seqs) + 1)
    runs = head["intervals"][: int(head["n_intervals"])]
    assert len(runs) <= N_INTERVALS
    assert (runs[:, 0] <= runs[:, 1]).all()
    assert (runs[1:, 0] > runs[:-1, 1] + 1).all()
    if seed == 0:
        assert not any(was_accepted(head, seq) for seq in range(0, 500, 20))


def test_verdicts_by_seq(layout: HeadLayout) -> None:
    """New is applied, known is a duplicate, other content a conflict, skipped or old in time is late."""
    heads = layout.new_session(1)
    assert verdict(heads, numbered(0)) is None
    for seq in (0, 1, 5):
        accept(heads, numbered(seq), seq)
    assert verdict(heads, numbered(6)) is None
    assert verdict(heads, numbered(5)) is Status.DUPLICATE
    assert verdict(heads, numbered(5, value=1.0)) is Status.CONFLICT
    assert verdict(heads, numbered(3)) is Status.LATE
    assert verdict(heads, numbered(6, ts_ms=START_MS)) is Status.LATE
    assert verdict(heads, numbered(6, epoch=1)) is None
    assert verdict(heads, numbered(6, epoch=2)) is Status.CONFLICT


def test_verdicts_without_seq(layout: HeadLayout) -> None:
    """The timestamp is the identity while it is remembered; older ones are late."""
    heads = layout.new_session(1)
    for i in range(N_RECENT + 5):
        accept(heads, numbered(None, ts_ms=START_MS + i), i)
    assert verdict(heads, numbered(2, ts_ms=START_MS + 10_000)) is Status.LATE  # a number we gave is nobody's duplicate
    newest = START_MS + N_RECENT + 4
    assert verdict(heads, numbered(None, ts_ms=newest)) is Status.DUPLICATE
    assert verdict(heads, numbered(None, ts_ms=newest, value=2.0)) is Status.CONFLICT
    assert verdict(heads, numbered(None, ts_ms=START_MS)) is Status.LATE
    assert verdict(heads, numbered(None, ts_ms=newest + 1)) is None


def test_the_future_is_judged_by_the_limit_given(layout: HeadLayout) -> None:
    """A sample after the latest acceptable instant is invalid."""
    answer = judge(layout.new_session(1)[0], numbered(0), START_MS - 1.0)
    assert answer is not None
    assert answer.status is Status.INVALID
    assert answer.errors[0].field == "ts"
