"""States as bytes: what goes in comes out, and nothing else is believed."""

import numpy as np
import pytest

from service.state_codec import CRC_OFFSET, HEADER, Snapshot, StateCodecError, pack_snapshot, unpack_snapshot


@pytest.fixture
def snapshot() -> Snapshot:
    """A small random state."""
    rng = np.random.default_rng()
    conv, ssm = rng.normal(size=(2, 6, 3)).astype("f4"), rng.normal(size=(2, 6, 5)).astype("f4")
    return Snapshot("00ff" * 8, epoch=3, seq=2**40 + 1, conv=conv, ssm=ssm)


def test_a_snapshot_survives_its_bytes(snapshot: Snapshot) -> None:
    """Every field and every bit of the state."""
    again = unpack_snapshot(pack_snapshot(snapshot))
    assert (again.fingerprint, again.epoch, again.seq) == (snapshot.fingerprint, 3, 2**40 + 1)
    assert np.array_equal(again.conv, snapshot.conv)
    assert np.array_equal(again.ssm, snapshot.ssm)


def test_any_damaged_byte_is_noticed(snapshot: Snapshot) -> None:
    """Flipping one bit anywhere, header and checksum included, is refused."""
    data = pack_snapshot(snapshot)
    rng = np.random.default_rng()
    for position in [*range(HEADER.size), *rng.integers(HEADER.size, len(data), 50).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(StateCodecError):
            unpack_snapshot(bytes(damaged))


def test_the_reason_is_named(snapshot: Snapshot) -> None:
    """Short, foreign, cut off and damaged are told apart."""
    data = pack_snapshot(snapshot)
    with pytest.raises(StateCodecError, match="less than a header"):
        unpack_snapshot(data[:20])
    with pytest.raises(StateCodecError, match="no Emberwatch state"):
        unpack_snapshot(b"RDB1" + data[4:])
    with pytest.raises(StateCodecError, match="do not hold"):
        unpack_snapshot(data[:-4])
    with pytest.raises(StateCodecError, match="checksum"):
        unpack_snapshot(data[:CRC_OFFSET] + b"\0\0\0\0" + data[CRC_OFFSET + 4 :])
