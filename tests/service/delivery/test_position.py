"""A position says exactly what has been seen, and its text is short."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.delivery.events import in_order
from service.delivery.outbox import Entry
from service.delivery.position import MOST_NAMED, SLACK_MS, EntryId, Position, entry_id
from service.errors import InvalidParameter
from tests.service.delivery.outboxes import alert

ENTRY = st.tuples(st.integers(1_795_000_000_000, 1_795_000_020_000), st.integers(0, 3))


@given(st.dictionaries(st.integers(0, 15), ENTRY), st.integers(1_795_000_000_000, 1_795_000_030_000))
def test_the_text_is_the_position(last: dict[int, EntryId], floor_ms: int) -> None:
    """Written and read again it is the same, and every partition goes on after what was seen, or from the floor."""
    position = Position.at(floor_ms, last)
    again = Position.parse(str(position), 16)
    assert again == position
    for partition in range(16):
        start = entry_id(again.start_of(partition))
        seen = last.get(partition)
        if seen is not None and seen[0] >= floor_ms - SLACK_MS:
            assert start == seen
        else:
            assert start < (floor_ms - SLACK_MS, 0)  # nothing from the floor on is left out
            assert seen is None or seen <= start  # and nothing seen comes again


def test_thousands_of_partitions_make_no_long_id() -> None:
    """What is not named is heard again, and never left out."""
    last = {p: (1_795_000_000_000 + p, 0) for p in range(16_384)}
    position = Position.parse(str(Position.at(1_795_000_000_000, last)), 16_384)
    assert len(str(position)) < 20 * (MOST_NAMED + 1)
    assert all(entry_id(position.start_of(p)) <= at for p, at in last.items())


@pytest.mark.parametrize("text", ["", "x", "1~", "1~2", "1~16.0-0", "1~0.0-0~", "-1", "1~0.-1-0", "1" * 5_000])
def test_what_is_no_id_of_ours_is_refused(text: str) -> None:
    """With the name of the header."""
    with pytest.raises(InvalidParameter, match="Last-Event-ID"):
        Position.parse(text, 16)


def test_after_each_event_nothing_of_before_it_is_missing() -> None:
    """Whatever event was the last one heard, resuming after it gives exactly those after it."""
    floor = 1_795_000_000_000
    entries = {p: [Entry(f"{floor + 7 * i + p}-0", alert(f"van-{p}-{i}")) for i in range(5)] for p in range(3)}
    heard = in_order(entries, floor, {})
    assert [h.at for h in heard] == sorted(h.at for h in heard)
    for i, last in enumerate(heard):
        line = last.text.decode().split("\n")[0].removeprefix("id: ")
        position = Position.parse(line, 16)
        again = [h for h in heard if h.at > entry_id(position.start_of(h.partition))]
        assert again == heard[i + 1 :]
