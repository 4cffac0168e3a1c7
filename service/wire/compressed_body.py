"""Unpacks gzip and zstd bodies piece by piece, and stops as soon as they hold more than they may.

A bomb costs no more memory than the limit and one step beyond it, whatever it would have become.
"""

import zlib
from typing import Protocol

import zstandard

from service.errors import BodyTooLarge, UnreadableBody, UnsupportedMediaType

ENCODINGS = ("gzip", "zstd")
GZIP_WINDOW = 16 + zlib.MAX_WBITS
ZSTD_WINDOW = 2**23  # what RFC 8878 asks every decoder to support; more is refused rather than allocated
# One zstd block of 4 bytes can hold 128 kB and the library gives no bound on what a call returns, so it is fed little
# at a time: at most 4 MB come back at once.
ZSTD_STEP = 128
ZSTD_WRITE = 16_384


class Unpacker(Protocol):
    """Takes the body as it arrives and keeps what it holds.

    Attributes:
        unpacked: bytes that it holds beyond those that were fed.
    """

    unpacked: int

    def feed(self, data: bytes) -> None:
        """More of the body.

        Raises:
            BodyTooLarge: it holds more than the limit.
            UnreadableBody: it is not in this encoding.
        """

    def finish(self) -> bytes | bytearray:
        """All that it held.

        Raises:
            UnreadableBody: it was cut off.
        """


def unpacker(encoding: str, limit: int) -> Unpacker:
    """For a Content-Encoding.

    Raises:
        UnsupportedMediaType: it is none that we read.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return Plain(limit)
    if name in {"gzip", "x-gzip"}:
        return Gzip(limit)
    if name == "zstd":
        return Zstd(limit)
    raise UnsupportedMediaType(
        f"content encoding is {encoding[:100]}; send gzip, zstd, or the body as it is",
        headers={"Accept-Encoding": ", ".join(ENCODINGS)},
    )


class Plain:
    """A body that is not packed."""

    def __init__(self, limit: int) -> None:
        self._body = bytearray()
        self._limit = limit
        self.unpacked = 0

    def feed(self, data: bytes) -> None:
        """See Unpacker."""
        self._body += data
        if len(self._body) > self._limit:
            raise too_large(self._limit)

    def finish(self) -> bytes | bytearray:
        """See Unpacker."""
        return self._body


class Gzip:
    """RFC 1952, any number of members."""

    def __init__(self, limit: int) -> None:
        self._body = bytearray()
        self._limit = limit
        self.unpacked = 0
        self._member = zlib.decompressobj(GZIP_WINDOW)

    def feed(self, data: bytes) -> None:
        """See Unpacker."""
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(GZIP_WINDOW)
            try:
                self._body += self._member.decompress(data, self._limit + 1 - len(self._body))
            except zlib.error as error:
                raise UnreadableBody(f"the body is not gzip: {error}") from error
            self.unpacked = len(self._body)
            if len(self._body) > self._limit:
                raise too_large(self._limit)
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def finish(self) -> bytes | bytearray:
        """See Unpacker."""
        if not self._member.eof:
            raise UnreadableBody("the gzip body is cut off")
        return self._body


class Zstd:
    """RFC 8878, any number of frames."""

    def __init__(self, limit: int) -> None:
        self._body = bytearray()
        self._limit = limit
        self.unpacked = 0
        self._codec = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame = self._codec.decompressobj(write_size=ZSTD_WRITE)

    def feed(self, data: bytes) -> None:
        """See Unpacker."""
        for start in range(0, len(data), ZSTD_STEP):
            self._step(data[start : start + ZSTD_STEP])

    def _step(self, data: bytes) -> None:
        while data:
            if self._frame.eof:
                self._frame = self._codec.decompressobj(write_size=ZSTD_WRITE)
            try:
                self._body += self._frame.decompress(data)
            except zstandard.ZstdError as error:
                raise UnreadableBody(f"the body is not zstd that we read: {error}") from error
            self.unpacked = len(self._body)
            if len(self._body) > self._limit:
                raise too_large(self._limit)
            data = self._frame.unused_data

    def finish(self) -> bytes | bytearray:
        """See Unpacker."""
        if not self._frame.eof:
            raise UnreadableBody("the zstd body is cut off")
        return self._body


def too_large(limit: int) -> BodyTooLarge:
    """The refusal of a body."""
    return BodyTooLarge(f"the body is over {limit} bytes; send fewer samples at a time", limit_bytes=limit)
