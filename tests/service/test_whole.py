"""Records copied whole."""

import numpy as np
import pytest

from service.records.checksum import record_dtype
from service.records.whole import copied, put, taken

DTYPE = record_dtype([("seq", "<i8"), ("inner", np.dtype([("a", "<f4"), ("b", "<u4")]), (3,)), ("phase", "u1")])


def random_records(n: int) -> np.ndarray:
    """Records of random bytes, NaN among them."""
    return np.frombuffer(np.random.default_rng(n).bytes(n * DTYPE.itemsize), DTYPE).copy()


def test_what_is_taken_is_byte_for_byte_what_indexing_gives() -> None:
    """By places and by mask, as copies of their own."""
    records = random_records(7)
    places, mask = np.array([5, 0, 5]), np.arange(7) % 2 == 0
    for at in (places, mask):
        found = taken(records, at)
        assert found.dtype == DTYPE
        assert found.tobytes() == records[at].tobytes()
        found["seq"] = 1
        assert records.tobytes() == random_records(7).tobytes()
    assert copied(records).tobytes() == records.tobytes()
    assert not np.shares_memory(copied(records), records)


def test_what_is_put_changes_its_places_only() -> None:
    """The others stay bit-equal; records of another dtype are refused."""
    records, others = random_records(7), random_records(2)
    before = records.copy()
    put(records, np.array([6, 1]), others)
    assert records[[6, 1]].tobytes() == others.tobytes()
    untouched = [0, 2, 3, 4, 5]
    assert records[untouched].tobytes() == before[untouched].tobytes()
    with pytest.raises(ValueError, match="do not go into"):
        put(records, np.array([0]), np.zeros(1, record_dtype([("seq", "<i8")])))
