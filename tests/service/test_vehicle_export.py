"""An exported vehicle as bytes: every part comes back, and nothing else is believed."""

import struct

import numpy as np
import pytest

from service.records.state_codec import pack_snapshots
from service.records.vehicle_export import HEADER, LAYOUT_VERSION, Export, ExportError, pack_export, unpack_export


@pytest.fixture
def export() -> Export:
    """Random parts of random lengths."""
    rng = np.random.default_rng()
    state = pack_snapshots("ab" * 16, [1], [5], np.ones((1, 1, 2, 3), "f4"), np.ones((1, 1, 2, 4), "f4"))[0]
    entry_bytes = int(rng.integers(1, 200))
    entries = rng.bytes(entry_bytes * int(rng.integers(0, 65)))
    head = rng.bytes(int(rng.integers(1, 2000)))
    return Export("van-1:a.B_2", head, state, b'{"id": "x"}', rng.bytes(99), entries, entry_bytes)


def test_every_part_comes_back(export: Export) -> None:
    """With an alert and entries, and without."""
    assert unpack_export(pack_export(export)) == export
    bare = Export("v", export.head, export.state, b"", b"", b"", 7)
    assert unpack_export(pack_export(bare)) == bare
    assert export.snapshot().seq == 5


def test_any_damaged_byte_is_noticed(export: Export) -> None:
    """One bit anywhere."""
    data, rng = pack_export(export), np.random.default_rng()
    for position in [*range(HEADER.size), *rng.integers(HEADER.size, len(data), 50).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(ExportError):
            unpack_export(bytes(damaged))


def test_the_reason_is_named(export: Export) -> None:
    """Short, foreign, of a later version, cut off, with a bad state inside."""
    data = pack_export(export)
    for wrong, reason in (
        (b"", "less than a header"),
        (b"EWST" + data[4:], "no exported vehicle"),
        (data[:4] + struct.pack("<I", LAYOUT_VERSION + 1) + data[8:], "layout 3"),
        (data[:-1] if export.entries else data + b"0", "not the parts"),
        (data[:8] + bytes(8) + data[16:], "checksum"),
    ):
        with pytest.raises(ExportError, match=reason):
            unpack_export(wrong)
    broken = Export("v", export.head, export.state[:-1], b"", b"", b"", 1)
    with pytest.raises(ExportError, match=r"its state: .* do not hold"):
        unpack_export(pack_export(broken)).snapshot()
