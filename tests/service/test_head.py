"""The head record: its bytes, its version, and what is left of it when its model is gone."""

import numpy as np
import pytest

from model.alert_machine import Phase
from model.channels import VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from service.records.accepted_seqs import contains
from service.records.checksum import seal
from service.records.head import LAYOUT, VERSION, HeadLayout, Heads, layout_2, read_version

N = len(VAN_SCHEMA.channels)
START_MS = 1_760_000_000_000
FINGERPRINT = "0123456789abcdef" * 2


@pytest.fixture
def layout() -> HeadLayout:
    """The layout of the van schema."""
    return HeadLayout(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N, (1.0,) * N), 5.0), FINGERPRINT)


def driven(layout: HeadLayout) -> Heads:
    """A head of session 3 after seqs 0 to 4 and 7."""
    head = layout.new_session(3)
    head["seq"], head["nonce"], head["last_ts_ms"], head["accepted"], head["samples"] = 7, 99, START_MS, 6, 6
    head["intervals"][0, :2], head["n_intervals"] = ((0, 4), (7, 7)), 2
    head["risk"], head["preprocess"]["last_ts_ms"] = 0.5, START_MS
    head["alert"]["phase"] = [[2, 3]]
    seal(head)
    return head


def test_a_head_survives_its_bytes_and_begins_with_its_version(layout: HeadLayout) -> None:
    """Packing and unpacking is the identity; the version is readable without the rest of the layout."""
    data = driven(layout).tobytes()
    assert layout.unpack(data).tobytes() == data
    assert read_version(data) == (3, LAYOUT, 0, 7, 99, START_MS)
    assert read_version(data[: VERSION.size - 1]) is None


def test_copies_of_many_heads_keep_every_byte(layout: HeadLayout) -> None:
    """A head is still intact after it was gathered from and scattered into arrays, as a batch does."""
    cache = np.zeros(9, layout.dtype)
    cache[[2, 5]] = np.concatenate([driven(layout), layout.new_session(1)])
    assert layout.unpack(cache[np.array([2])].tobytes())["seq"][0] == 7
    assert layout.unpack(cache[5].tobytes())["epoch"][0] == 1


def test_any_damaged_byte_is_noticed(layout: HeadLayout) -> None:
    """Whichever bit flips, the head is refused."""
    data = driven(layout).tobytes()
    rng = np.random.default_rng()
    for position in [0, 4, 8, 32, *rng.integers(0, len(data), 60).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match=r"damaged|layout"):
            layout.unpack(bytes(damaged))


def test_another_layout_is_refused_and_its_session_salvaged(layout: HeadLayout) -> None:
    """A head of another size keeps epoch, seq and nonce; everything up to its seq counts as accepted."""
    foreign = VERSION.pack(5, 1, 0, 41, 77, START_MS) + b"whatever another version writes"
    with pytest.raises(ValueError, match="bytes"):
        layout.unpack(foreign)
    head = layout.salvage(foreign)[0]
    assert (int(head["epoch"]), int(head["seq"]), int(head["nonce"]), int(head["samples"])) == (5, 41, 77, 0)
    assert contains(head["intervals"], int(head["n_intervals"]), 40)
    assert not contains(head["intervals"], int(head["n_intervals"]), 42)
    assert int(layout.salvage(b"short")["epoch"][0]) == 1


def test_a_cold_start_keeps_the_session(layout: HeadLayout) -> None:
    """Salvaging a head of our own layout forgets the model's part and keeps what was accepted, and the alert."""
    cold = layout.salvage(driven(layout).tobytes())[0]
    assert int(cold["samples"]) == 0
    assert np.isnan(cold["risk"])
    assert int(cold["preprocess"]["last_ts_ms"]) == -1
    assert (int(cold["seq"]), int(cold["accepted"]), int(cold["last_ts_ms"])) == (7, 6, START_MS)
    assert int(cold["n_intervals"]) == 2
    assert cold["alert"]["phase"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("before", "below_ms", "after"),
    [(0, -1, Phase.INACTIVE), (1, -1, Phase.PENDING), (2, -1, Phase.FIRING), (2, START_MS + 9, Phase.RECOVERING)],
)
def test_a_head_of_layout_2_is_taken_over_with_its_alert(
    layout: HeadLayout, before: int, below_ms: int, after: Phase
) -> None:
    """Everything it said is said by the new head; its alert goes on in the phase in which it was."""
    old = np.zeros(1, layout_2(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N, (1.0,) * N), 5.0)))
    new = driven(layout)
    for name in set(old.dtype.names or ()) - {"layout", "alert", "check", "reserved"}:
        old[name] = new[name]
    old["layout"], old["alert"]["phase"], old["alert"]["below_ms"] = 2, before, below_ms
    old["alert"]["first_crossed_ms"], old["alert"]["fired_ms"] = START_MS + 1, START_MS + 2
    seal(old)
    head = layout.unpack(old.tobytes())
    assert layout.unpack(head.tobytes()).tobytes() == head.tobytes()
    for name in set(old.dtype.names or ()) - {"layout", "alert", "check", "reserved"}:
        assert head[name].tobytes() == old[name].tobytes(), name
    alert, anomaly = head["alert"][0]
    assert int(alert["phase"]) == after
    assert int(anomaly["phase"]) == Phase.INACTIVE
    if before:
        assert (int(alert["first_crossed_ms"]), int(alert["fired_ms"])) == (START_MS + 1, START_MS + 2)
        assert int(alert["since_ms"]) == below_ms
    damaged = bytearray(old.tobytes())
    damaged[100] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        layout.unpack(bytes(damaged))
