"""A 32-bit checksum of fixed-layout records, many at once: whether the bytes are those that were written."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.jit import entry_point

Records = NDArray[np.void]


def record_dtype(fields: list[tuple[Any, ...]]) -> np.dtype[np.void]:
    """An aligned dtype without gaps: NumPy does not copy what lies between fields, and the checksum covers every byte.

    Raises:
        ValueError: the fields would leave a gap between them; only one at the end is filled.
    """
    aligned = np.dtype(fields, align=True)
    rest = aligned.itemsize - np.dtype(fields).itemsize
    dtype = np.dtype([*fields, ("reserved", "u1", (rest,))], align=True) if rest else aligned
    if dtype.itemsize != aligned.itemsize or dtype.itemsize % 4:
        raise ValueError(f"the fields leave gaps: {aligned}")
    return dtype


def seal(records: Records) -> None:
    """Write the checksum of each record (n,) into its field `check`, in place."""
    records["check"] = 0
    records["check"] = _fold(_words(records))


def intact(records: Records) -> NDArray[np.bool_]:
    """Which of the records (n,) are as they were sealed."""
    written = records["check"].copy()
    bare = records.copy()
    bare["check"] = 0
    return np.asarray(_fold(_words(bare)) == written)


def _words(records: Records) -> NDArray[np.uint32]:
    """The records as 32-bit words, (n, words). Raises ValueError unless they are C-contiguous and of whole words."""
    return records.view(np.uint32).reshape(len(records), records.dtype.itemsize // 4)


@entry_point
def _fold(words: Any) -> Any:
    """FNV-1a over 32-bit words in 64-bit arithmetic (Fowler, Noll & Vo), its halves joined.

    Never 0 for a record of zeros, so that memory that was cleared is noticed.
    """
    sums = np.empty(len(words), np.uint32)
    for row in range(len(words)):
        value = np.uint64(0xCBF29CE484222325)
        for i in range(words.shape[1]):
            value = (value ^ np.uint64(words[row, i])) * np.uint64(0x100000001B3)
        sums[row] = np.uint32((value ^ (value >> np.uint64(32))) & np.uint64(0xFFFFFFFF))
    return sums
