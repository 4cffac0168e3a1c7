"""The journal's bytes: what leads to its head is believed, everything else is named."""

from collections.abc import Callable

import numpy as np
import pytest

from model.channels import VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from service.records.checksum import seal
from service.records.head import HeadLayout, Heads
from service.records.journal import BASE_DTYPE, KEEP, JournalError, JournalLayout, empty_rings, remember
from service.samples import NO_SEQ

N = len(VAN_SCHEMA.channels)
JOURNALS = JournalLayout(VAN_SCHEMA.d_input)
LAYOUT = HeadLayout(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N, (1.0,) * N), 5.0), "ab" * 16)
SIZE = JOURNALS.dtype.itemsize


def written(accepted: int = 10, base: int = 6, kept: int = 8) -> tuple[Heads, bytes]:
    """A head after `accepted` samples and its journal of the last `kept`, after a snapshot of the first `base`."""
    head = LAYOUT.new_session(2)
    head["accepted"], head["seq"], head["nonce"] = accepted, accepted - 1, 1_000 + accepted
    seal(head)
    entries = JOURNALS.entries(kept)
    entries["seq"] = np.arange(accepted - kept, accepted)
    entries["nonce"] = 1_001 + entries["seq"]
    entries["inputs"] = np.random.default_rng().normal(size=(kept, VAN_SCHEMA.d_input))
    seal(entries)
    return head, JOURNALS.base(2, base, base - 1, 77).tobytes() + entries.tobytes()


def test_a_journal_survives_its_bytes_and_knows_what_to_replay() -> None:
    """The entries after the snapshot are the last ones; the others are there for retries."""
    head, data = written()
    journal = JOURNALS.unpack(data, head)
    assert journal.entries["seq"].tolist() == list(range(2, 10))
    assert journal.replay(10)["seq"].tolist() == [6, 7, 8, 9]
    assert int(journal.base["nonce"][0]) == 77


def test_a_journal_with_nothing_to_replay() -> None:
    """Everything is in the snapshot."""
    head, data = written(base=10)
    assert len(JOURNALS.unpack(data, head).replay(10)) == 0


DAMAGE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "gone": (lambda _: None, "missing"),
    "cut in the base": (lambda data: data[:20], "missing"),
    "cut in an entry": (lambda data: data[:-1], "middle of an entry"),
    "without its last entry": (lambda data: data[:-SIZE], "last entry"),
    "without its first entries": (lambda data: data[:32] + data[-SIZE:], "does not lead"),
    "of another session": (lambda data: JOURNALS.base(1, 6, 5, 77).tobytes() + data[32:], "does not lead"),
    "of the future": (lambda data: JOURNALS.base(2, 11, 10, 77).tobytes() + data[32:], "does not lead"),
    "of another layout": (lambda data: JournalLayout(5).base(2, 6, 5, 77).tobytes() + data[32:], "another layout"),
    "with a damaged base": (lambda data: data[:9] + b"\xff" + data[10:], "base is damaged"),
    "with a damaged entry": (lambda data: data[:200] + bytes([data[200] ^ 4]) + data[201:], "entry of the journal"),
    "overwritten with zeros": (lambda data: data[:32] + bytes(len(data) - 32), "entry of the journal"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str) -> None:
    """Nothing that does not lead from the base to the head is replayed."""
    damage, reason = DAMAGE[name]
    head, data = written()
    with pytest.raises(JournalError, match=reason):
        JOURNALS.unpack(damage(data), head)


def test_rings_keep_the_last_answers_of_each_slot() -> None:
    """Two vehicles with runs of different lengths; what is older than KEEP is overwritten, other slots stay."""
    rings = empty_rings(4)
    _, data = written(accepted=KEEP + 3, base=0, kept=KEEP + 3)
    entries = np.frombuffer(data, JOURNALS.dtype, offset=BASE_DTYPE.itemsize)
    numbers = np.arange(KEEP + 3)
    remember(rings, np.full(KEEP + 3, 1), numbers, entries)
    remember(rings, np.full(2, 2), numbers[:2], entries[:2])
    assert sorted(rings[1]["seq"]) == list(range(3, KEEP + 3))
    assert sorted(rings[2]["seq"])[-2:] == [0, 1]
    assert (rings[[0, 3]]["seq"] == NO_SEQ).all()
