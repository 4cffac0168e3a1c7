"""A bounded queue on disk with one place of reading for each reader.

Segments `<number>.seg` hold records of length (4 bytes), CRC-32 (4 bytes) and payload, little-endian. An append is on the disk
when it returns. What was being written when the power went is cut off at the next start: it was not acknowledged. A segment is
removed when every reader is past it.
"""

import os
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import structlog

HEADER = struct.Struct("<II")
logger = structlog.get_logger(__name__)

Position = tuple[int, int]  # segment, offset in it


class SpoolFull(RuntimeError):
    """There is no room within the bound, or none on the disk; nothing was kept of what was to be appended."""


class Spool:
    """The queue; every method may be called from any thread.

    Args:
        folder: its own; made if it is not there.
        max_bytes: of all segments together.
        readers: their names, of letters and digits. One that is new begins with the oldest record that is there.
        segment_bytes: about so large is a segment; what was read is given back in such pieces.
    """

    def __init__(self, folder: Path, max_bytes: int, readers: Sequence[str], segment_bytes: int = 4_194_304) -> None:
        if max_bytes < 2 * segment_bytes:
            raise ValueError(f"a spool needs room for two segments of {segment_bytes:,} bytes, got {max_bytes:,}")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.max_bytes, self.damaged = folder, max_bytes, 0
        self._segment_bytes = segment_bytes
        self._changed = threading.Condition()
        self._sizes = {int(path.stem): path.stat().st_size for path in folder.glob("*.seg")}
        self._last = max(self._sizes, default=0)
        if self._sizes:
            self._sizes[self._last] = whole(self._path(self._last))
        self._file = self._open(self._last if self._sizes else 1)
        self._cursors = {reader: self._stored(reader) for reader in readers}
        self._clean()

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:012d}.seg"

    def _open(self, segment: int) -> BinaryIO:
        """Make this the segment that is appended to, cut to what is whole of it."""
        path = self._path(segment)
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._last = segment
        self._sizes.setdefault(segment, 0)
        file.truncate(self._sizes[segment])
        file.seek(self._sizes[segment])
        sync_folder(self.folder)
        return file

    def _stored(self, reader: str) -> Position:
        """Where a reader was; never before the oldest segment nor beyond the end."""
        oldest = (min(self._sizes), 0)
        try:
            segment, offset = map(int, (self.folder / f"{reader}.cursor").read_text().split())
        except (OSError, ValueError):
            return oldest
        return min(max((segment, offset), oldest), (self._last, self._sizes[self._last]))

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        with self._changed:
            return sum(self._sizes.values())

    def waiting(self, reader: str) -> int:
        """Bytes that a reader has before it."""
        with self._changed:
            segment, offset = self._cursors[reader]
            return sum(size for number, size in self._sizes.items() if number >= segment) - offset

    def append(self, records: Sequence[bytes]) -> None:
        """Keep all of these or none.

        Raises:
            SpoolFull: there is no room.
        """
        data = b"".join(HEADER.pack(len(record), zlib.crc32(record)) + record for record in records)
        with self._changed:
            if sum(self._sizes.values()) + len(data) > self.max_bytes:
                raise SpoolFull(f"the spool holds {self.max_bytes:,} bytes at most")
            try:
                if self._sizes[self._last] >= self._segment_bytes:
                    self._file.close()
                    self._file = self._open(self._last + 1)
                written = 0
                while written < len(data):
                    written += self._file.write(data[written:]) or 0
                os.fsync(self._file.fileno())
            except OSError as error:
                self._take_back()
                raise SpoolFull(f"the disk takes nothing: {error}") from error
            self._sizes[self._last] += len(data)
            self._changed.notify_all()

    def _take_back(self) -> None:
        """What was half written must not be read."""
        if self._file.closed:
            self._file = self._open(self._last)
        self._file.truncate(self._sizes[self._last])
        self._file.seek(self._sizes[self._last])

    def read(self, reader: str, most: int, timeout_s: float) -> tuple[list[bytes], Position]:
        """Up to `most` records from where this reader is, and where it will be after them; waits if there are none."""
        with self._changed:
            segment, offset = self._cursors[reader]
            self._changed.wait_for(lambda: (segment, offset) < (self._last, self._sizes[self._last]), timeout_s)
            sizes, last = dict(self._sizes), self._last
        records: list[bytes] = []
        while len(records) < most:
            found, offset, broken = records_of(self._path(segment), offset, sizes[segment], most - len(records))
            records += found
            if broken:
                self.damaged += 1
                logger.error("spool_damaged", segment=str(self._path(segment)), offset=offset)
                offset = sizes[segment]
            if offset < sizes[segment] or segment == last:
                break
            segment, offset = min(number for number in sizes if number > segment), 0
        return records, (segment, offset)

    def advance(self, reader: str, position: Position) -> None:
        """This reader is done with everything before; it will be so after a restart. Raises OSError."""
        if position == self._cursors[reader]:
            return
        path = self.folder / f"{reader}.cursor"
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write("{} {}\n".format(*position))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        with self._changed:
            self._cursors[reader] = position
            self._clean()

    def _clean(self) -> None:
        """Remove segments that everybody has read."""
        needed = min((segment for segment, _ in self._cursors.values()), default=self._last)
        for segment in [number for number in self._sizes if number < needed]:
            self._path(segment).unlink(missing_ok=True)
            del self._sizes[segment]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def records_of(path: Path, offset: int, size: int, most: int) -> tuple[list[bytes], int, bool]:
    """Whole records from `offset` on, where the next one begins, and whether what is there is damaged."""
    records: list[bytes] = []
    with path.open("rb") as file:
        file.seek(offset)
        while len(records) < most and offset < size:
            header = file.read(HEADER.size)
            if len(header) < HEADER.size:
                return records, offset, True
            length, checksum = HEADER.unpack(header)
            record = file.read(min(length, size - offset))
            if len(record) < length or zlib.crc32(record) != checksum:
                return records, offset, True
            records.append(record)
            offset += HEADER.size + length
    return records, offset, False


def whole(path: Path) -> int:
    """Bytes of the whole records that a segment begins with."""
    size = path.stat().st_size
    return records_of(path, 0, size, size)[1]


def sync_folder(folder: Path) -> None:
    """A new file's name is on the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
