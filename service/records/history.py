"""The history: the accepted samples of a vehicle as they came, kept beyond the journal for a model that is not made yet.

A journal entry is what one model's network saw; another model has another normaliser and needs what was sent. So with
`retain_history` each commit also appends the samples, raw, to a string, the tail. When that is long enough the same script
moves it, as one block, to the end of a list (service/store/commit.lua); later the block is packed in place, in the background. Nothing
is ever in two places, and nothing acknowledged in none. What it does not know: models.

block: header (HEADER), names of the signals joined by commas, then records (`record_dtype`) or packed columns.
Packed columns are a zstd frame of byte planes: numbers and times as differences; a signal as differences of whole numbers where
all its values are decimal fractions, else as its bits.  Every value comes back bit for bit.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from service.records.checksum import intact, record_dtype, seal
from service.samples import Samples

MAGIC = b"EWHB"
RAW, PACKED = 0, 1
HEADER = struct.Struct(
    "<4sHHIIq"
)  # magic, kind, bytes of a record, bytes of the names, records of a packed one, its last ts
ROTATED_AT = 240  # records: then the tail becomes a block
DECIMALS = 8  # a fraction of more is kept as bits
EXACT = 2.0**53

Records = NDArray[np.void]


class HistoryError(ValueError):
    """A block that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Retained:
    """Samples of one session, in order, without a gap, the last accepted one last.

    Attributes:
        ts_ms: (n,) epoch milliseconds.
        signals: (n, n_signals) in the order asked for, NaN when absent.
        first: number of the first in its session, from 0.
    """

    ts_ms: NDArray[np.int64]
    signals: NDArray[np.float64]
    first: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of each vehicle's history is kept."""

    layout: "HistoryLayout"
    max_bytes: int  # of the list, by the store's own account
    max_ms: int  # before the last sample

    def for_script(self) -> tuple[bytes, int, int, int]:
        """As service/store/commit.lua is told."""
        return self.layout.header, self.layout.rotated_at, self.max_bytes, self.max_ms


class HistoryLayout:
    """How samples of one schema are kept.

    Raises:
        ValueError: a signal's name has a comma.
    """

    def __init__(self, signal_names: Sequence[str]) -> None:
        if any("," in name for name in signal_names):
            raise ValueError("the name of a signal has a comma")
        names = ",".join(signal_names).encode()
        self.dtype = samples_dtype(len(signal_names))
        self.names = tuple(signal_names)
        self.header = HEADER.pack(MAGIC, RAW, self.dtype.itemsize, len(names), 0, 0) + names

    @property
    def rotated_at(self) -> int:
        """Bytes of a tail that is moved to the list."""
        return len(self.header) + ROTATED_AT * self.dtype.itemsize

    def records(self, epochs: NDArray[np.uint32], numbers: NDArray[np.int64], samples: Samples) -> Records:
        """Samples (n,) as they are kept; their sessions and their numbers in them, (n,)."""
        records = np.zeros(len(samples), self.dtype)
        records["epoch"], records["number"], records["ts_ms"] = epochs, numbers, samples.ts_ms
        records["signals"] = samples.signals
        seal(records)
        return records

    def retained(self, blocks: Sequence[bytes], epoch: int, accepted: int, oldest_ms: int) -> Retained:
        """What leads without a gap to the last of a session's accepted samples; none if it does not lead there.

        Args:
            blocks: in order, the tail last; a part may be in two of them.
            epoch: the session.
            accepted: samples of it.
            oldest_ms: of what is older nothing is wanted.

        Raises:
            HistoryError: a block is damaged.
        """
        wanted, nothing = accepted - 1, Retained(np.empty(0, np.int64), np.empty((0, len(self.names))), accepted)
        found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        for block in reversed(blocks):
            names, records = read_block(block)
            records = records[
                (records["epoch"] == epoch) & (records["number"] <= wanted) & (records["ts_ms"] >= oldest_ms)
            ]
            # Of the records before `wanted`, those that count down to it one by one.
            steps = wanted - np.arange(len(records))
            fitting = records["number"][::-1].astype(np.int64) == steps
            n = len(records) if fitting.all() else int(np.argmin(fitting))
            if n:
                records = records[len(records) - n :]
                found.append((records["ts_ms"], by_name(names, records["signals"], self.names)))
                wanted -= n
        if not found:
            return nothing
        return Retained(
            np.concatenate([ts for ts, _ in reversed(found)]),
            np.concatenate([signals for _, signals in reversed(found)]),
            wanted + 1,
        )


def samples_dtype(n_signals: int) -> np.dtype[np.void]:
    """One sample as sent; the scripts read `ts_ms`."""
    return record_dtype(
        [
            ("epoch", "<u4"),
            ("number", "<u4"),  # in its session, from 0
            ("ts_ms", "<i8"),
            ("signals", "<f8", (n_signals,)),
            ("check", "<u4"),
        ]
    )


def by_name(names: tuple[str, ...], signals: NDArray[np.float64], wanted: tuple[str, ...]) -> NDArray[np.float64]:
    """Columns in another schema's order; NaN for signals that were not kept."""
    if names == wanted:
        return np.ascontiguousarray(signals)
    columns = np.full((len(signals), len(wanted)), np.nan)
    for place, name in enumerate(wanted):
        if name in names:
            columns[:, place] = signals[:, names.index(name)]
    return columns


def is_raw(block: bytes) -> bool:
    """Whether a block waits to be packed."""
    return len(block) >= HEADER.size and HEADER.unpack_from(block)[:2] == (MAGIC, RAW)


def read_block(block: bytes) -> tuple[tuple[str, ...], Records]:
    """The names of its signals, and its records (n,).

    Raises:
        HistoryError: it is no block, or damaged.
    """
    if len(block) < HEADER.size:
        raise HistoryError("a block of the history is too short")
    magic, kind, size, names_bytes, n, _ = HEADER.unpack_from(block)
    names = tuple(block[HEADER.size : HEADER.size + names_bytes].decode("ascii", "replace").split(","))
    dtype = samples_dtype(len(names))
    if magic != MAGIC or kind not in {RAW, PACKED} or size != dtype.itemsize:
        raise HistoryError("a block of the history has another layout")
    body = block[HEADER.size + names_bytes :]
    if kind == RAW:
        if len(body) % size:
            raise HistoryError("a block of the history ends in the middle of a record")
        records = np.frombuffer(body, dtype)
    else:
        records = unpack_columns(body, dtype, n)
    if not intact(records).all():
        raise HistoryError("a record of the history is damaged")
    return names, records


def pack_block(block: bytes) -> bytes:
    """A raw block as columns.

    Raises:
        HistoryError: it is damaged.
    """
    names, records = read_block(block)
    joined = ",".join(names).encode()
    header = HEADER.pack(MAGIC, PACKED, records.dtype.itemsize, len(joined), len(records), int(records["ts_ms"][-1]))
    planes = [planes_of(differences(records[name].astype(np.int64))) for name in ("epoch", "number", "ts_ms")]
    scales = bytearray()
    for column in records["signals"].T:
        scale, numbers = as_integers(np.ascontiguousarray(column))
        scales.append(scale)
        planes.append(planes_of(differences(numbers)))
    return header + joined + zstandard.ZstdCompressor(9).compress(bytes(scales) + b"".join(planes))


def unpack_columns(body: bytes, dtype: np.dtype[np.void], n: int) -> Records:
    """Inverse of the packing in `pack_block`: sealed records (n,). Raises HistoryError."""
    n_signals = dtype["signals"].shape[0]
    size = n_signals + (3 + n_signals) * 8 * n
    try:
        data = zstandard.ZstdDecompressor().decompress(body, max_output_size=size)
    except zstandard.ZstdError as error:
        raise HistoryError(f"a block of the history cannot be unpacked: {error}") from error
    if len(data) != size:
        raise HistoryError("a block of the history holds less than it says")
    planes = np.frombuffer(data, np.uint8, offset=n_signals).reshape(3 + n_signals, 8, n)
    columns = np.cumsum(np.ascontiguousarray(planes.transpose(0, 2, 1)).view(np.int64)[..., 0], axis=1)
    records = np.zeros(n, dtype)
    for name, column in zip(("epoch", "number", "ts_ms"), columns, strict=False):
        records[name] = column
    for place in range(n_signals):
        records["signals"][:, place] = as_floats(data[place], columns[3 + place])
    seal(records)
    return records


def differences(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each number (n,) less the one before it, modulo 2^64."""
    steps = numbers.copy()
    steps[1:] -= numbers[:-1]
    return steps


def planes_of(numbers: NDArray[np.int64]) -> bytes:
    """Numbers (n,) with all their lowest bytes first, then the next ones: what seldom changes lies together."""
    return np.ascontiguousarray(numbers.view(np.uint8).reshape(len(numbers), 8).T).tobytes()


BITS = 255  # the scale of a column that is kept as its bits
ABSENT = np.int64(-(2**62))  # NaN in a column of whole numbers


def as_integers(column: NDArray[np.float64]) -> tuple[int, NDArray[np.int64]]:
    """Values (n,) as integers, and by which power of ten they were multiplied; BITS: they are the values' bits."""
    there = ~np.isnan(column)
    values = np.where(there, column, 0.0)
    for decimals in range(DECIMALS):
        with np.errstate(over="ignore"):  # then it is not smaller than EXACT
            scaled = np.rint(values * 10.0**decimals)
        if (np.abs(scaled) < EXACT).all() and same_bits(scaled / 10.0**decimals, values):
            return decimals, np.where(there, scaled.astype(np.int64), ABSENT)
    return BITS, column.view(np.int64)


def as_floats(scale: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Inverse of `as_integers`."""
    if scale == BITS:
        return numbers.view(np.float64)
    return np.where(numbers == ABSENT, np.nan, numbers / 10.0**scale)


def same_bits(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Equal to the last bit, the sign of zero included."""
    return bool((first.view(np.int64) == second.view(np.int64)).all())
