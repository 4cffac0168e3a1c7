"""Everything of one vehicle as bytes, so that its stream goes on elsewhere bit for bit: what `GET .../state` returns.

offset  size  field
0     4  magic "EWVX"
4     4  layout version (2: with the trend)
8     8  XXH3-64 of all bytes from 16 on
16    28  lengths: vehicle id, head, state, alert, trend, and of the journal: entries, bytes of one (uint32 each,
          little-endian)
44     .  vehicle id (ASCII)
      .  head (service/records/head.py): session, normaliser, Kalman filter, alert machine, accepted numbers
      .  state (service/records/state_codec.py, fp32) after the head's last sample
      .  alerts, the vehicle's last one of each rule as a JSON array; empty when there is none
      .  trend, its ring of closed bins (service/engine/trend.py); empty when none was closed
      .  the last journal entries (service/records/journal.py), the head's last sample last: answers to retries

This module does not know what is inside head and entries; who imports them checks that (service/engine/vehicle_transfer.py).
"""

import struct
from dataclasses import dataclass

import xxhash

from service.records.state_codec import Snapshot, StateCodecError, unpack_snapshot

MAGIC = b"EWVX"
LAYOUT_VERSION = 2
HEADER = struct.Struct("<4sIQ7I")
CHECKSUM = struct.Struct("<Q")
CHECKED_FROM = 16
MEDIA_TYPE = "application/vnd.emberwatch.vehicle"


class ExportError(ValueError):
    """These bytes are no export that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Export:
    """One vehicle at one sample."""

    vehicle_id: str
    head: bytes
    state: bytes  # a snapshot
    alert: bytes  # JSON array, or nothing
    trend: bytes  # a ring, or nothing
    entries: bytes
    entry_bytes: int

    def snapshot(self) -> Snapshot:
        """The state.

        Raises:
            ExportError: it cannot be read.
        """
        try:
            return unpack_snapshot(self.state)
        except StateCodecError as error:
            raise ExportError(f"its state: {error}") from error


def pack_export(export: Export) -> bytes:
    """Header and parts; inverse of `unpack_export`."""
    name = export.vehicle_id.encode("ascii")
    n_entries = len(export.entries) // export.entry_bytes
    parts = (name, export.head, export.state, export.alert, export.trend)
    lengths = (*(len(part) for part in parts), n_entries, export.entry_bytes)
    header = HEADER.pack(MAGIC, LAYOUT_VERSION, 0, *lengths)
    body = b"".join((header[CHECKED_FROM:], *parts, export.entries))
    return header[:8] + CHECKSUM.pack(xxhash.xxh3_64_intdigest(body)) + body


def unpack_export(data: bytes) -> Export:
    """An export from its bytes.

    Raises:
        ExportError: too short, foreign, of another layout, of the wrong length, or damaged.
    """
    if len(data) < HEADER.size:
        raise ExportError(f"{len(data)} bytes are less than a header")
    magic, version, checksum, *lengths, n_entries, entry_bytes = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ExportError(f"magic is {magic!r}, not {MAGIC!r}: this is no exported vehicle")
    if version != LAYOUT_VERSION:
        raise ExportError(f"layout {version}; this version reads layout {LAYOUT_VERSION}")
    if len(data) != HEADER.size + sum(lengths) + n_entries * entry_bytes:
        raise ExportError(f"{len(data)} bytes are not the parts that the header announces")
    if xxhash.xxh3_64_intdigest(memoryview(data)[CHECKED_FROM:]) != checksum:
        raise ExportError("checksum does not match: the bytes are damaged")
    parts, start = [], HEADER.size
    for length in lengths:
        parts.append(data[start : start + length])
        start += length
    name, head, state, alert, trend = parts
    if not name.isascii():
        raise ExportError("the vehicle id is not ASCII")
    return Export(name.decode("ascii"), head, state, alert, trend, data[start:], entry_bytes)
