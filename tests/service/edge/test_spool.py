"""The queue on disk: in order, within its bound, and whole after anything."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.edge.spool import Spool, SpoolFull

SEGMENT = 256


def open_spool(folder: Path, *readers: str, max_bytes: int = 4_096) -> Spool:
    """With small segments."""
    return Spool(folder, max_bytes, readers or ("a",), SEGMENT)


def drained(spool: Spool, reader: str = "a", most: int = 3) -> list[bytes]:
    """Everything that a reader has before it, read in pieces and left behind."""
    found: list[bytes] = []
    while True:
        records, position = spool.read(reader, most, 0.0)
        spool.advance(reader, position)
        if not records:
            return found
        found += records


def test_what_is_appended_is_read_in_order_by_each_reader(tmp_path: Path) -> None:
    """Also by one that begins later, from the oldest that is there; what all have read is removed."""
    spool = open_spool(tmp_path, "a", "b")
    records = [b"%03d" % i + bytes(i) for i in range(60)]
    for record in records:
        spool.append([record])
    assert drained(spool, "a") == records
    assert spool.waiting("a") == 0
    assert spool.waiting("b") == spool.size > SEGMENT
    spool.close()
    spool = open_spool(tmp_path, "a", "b")
    assert drained(spool, "a") == []
    assert drained(spool, "b") == records
    assert spool.size <= 2 * SEGMENT


def test_the_bound_holds_and_room_comes_back(tmp_path: Path) -> None:
    """What does not fit is refused whole; after reading it fits."""
    spool = open_spool(tmp_path, max_bytes=1_024)
    for _ in range(10):
        spool.append([b"x" * 92])
    with pytest.raises(SpoolFull, match="1,024 bytes"):
        spool.append([b"x" * 92])
    assert sum(path.stat().st_size for path in tmp_path.glob("*.seg")) <= 1_024
    with pytest.raises(SpoolFull):
        spool.append([b"small", b"y" * 92])
    assert drained(spool) == [b"x" * 92] * 10
    spool.append([b"again"])
    assert drained(spool) == [b"again"]


def test_a_torn_end_is_cut_off_and_the_next_append_is_read(tmp_path: Path) -> None:
    """As a loss of power leaves it: the header, or some of a record."""
    for torn in (b"\x05", b"\xff\x00\x00\x00\x00\x00\x00\x00abc", b"\x03\x00\x00\x00\x00\x00\x00\x00abc"):
        spool = open_spool(tmp_path / str(len(torn)))
        spool.append([b"kept"])
        spool.close()
        (file,) = spool.folder.glob("*.seg")
        with file.open("ab") as out:
            out.write(torn)
        spool = open_spool(spool.folder)
        spool.append([b"next"])
        assert drained(spool) == [b"kept", b"next"]
        assert spool.damaged == 0


def test_damage_costs_the_rest_of_its_segment_and_is_counted(tmp_path: Path) -> None:
    """What lies in other segments is read."""
    spool = open_spool(tmp_path)
    records = [b"%04d" % i * 10 for i in range(20)]
    for record in records:
        spool.append([record])
    first = min(tmp_path.glob("*.seg"))
    data = bytearray(first.read_bytes())
    data[8 + 40 + 8 + 3] ^= 1  # in the second record
    first.write_bytes(bytes(data))
    found = drained(spool)
    assert found[0] == records[0]
    assert found[1:] == records[6:]
    assert spool.damaged == 1


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append that failed is not read, and the next one is."""
    spool = open_spool(tmp_path)
    spool.append([b"one"])

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("service.edge.spool.os.fsync", no_room)
        with pytest.raises(SpoolFull, match="No space left"):
            spool.append([b"two"])
    spool.append([b"three"])
    assert drained(spool) == [b"one", b"three"]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.one_of(st.lists(st.binary(max_size=90), min_size=1, max_size=4), st.integers(1, 5), st.none()))
)
def test_nothing_is_lost_or_doubled_over_restarts(
    steps: list[list[bytes] | int | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Appends, reads and restarts in any order: what was read and what is left is what was appended."""
    folder = tmp_path_factory.mktemp("spool")
    spool = open_spool(folder, max_bytes=100_000)
    appended, read = list[bytes](), list[bytes]()
    for step in steps:
        if step is None:
            spool.close()
            spool = open_spool(folder, max_bytes=100_000)
        elif isinstance(step, int):
            records, position = spool.read("a", step, 0.0)
            spool.advance("a", position)
            read += records
        else:
            spool.append(step)
            appended += step
    assert read + drained(spool) == appended
    spool.close()
