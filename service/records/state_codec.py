"""A recurrent state as bytes: what a snapshot in Redis holds.

offset  size  field
0     4  magic "EWST"
4     4  layout version (2 or 3)
8     8  XXH3-64 of all bytes from 16 on
16    16  model fingerprint
32    16  n_layer, d_inner, d_conv - 1, d_state (uint32 each)
48     4  dtype: 1 fp32, 2 bf16, 3 int8
52     4  epoch
56     8  seq of the last sample in the state
64     .  the values, C order, all little-endian:
          fp32, bf16  conv_state, ssm_state
          int8        bf16 scales of conv_state, of ssm_state, then conv_state, ssm_state (service/records/state_rounding.py)

That is layout 2. Where the convolution has other channels than the state (Mamba-2) it is layout 3: a fifth size, the
convolution's channels, follows the four, and all behind it lies 4 bytes later. Layout 1, which earlier versions wrote, is
still read: fp32 with a CRC-32.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from service.records.state_rounding import FINITE, TOO_LARGE, dither_key, groups_in, roundings

SnapshotDtype = Literal["fp32", "bf16", "int8"]

MAGIC = b"EWST"
HEADERS = {2: struct.Struct("<4sIQ16s4IIIq"), 3: struct.Struct("<4sIQ16s5IIIq")}
CHECKSUM = struct.Struct("<Q")
CHECKSUM_OFFSET, CHECKED_FROM = 8, 16
CODES: dict[SnapshotDtype, int] = {name: code for code, name in enumerate(get_args(SnapshotDtype), 1)}
NAMES = {code: name for name, code in CODES.items()}

HEADER_1 = struct.Struct("<4sHH16s4IIIq")  # layout 1
CRC_OFFSET = 44  # in it

Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class StateCodecError(ValueError):
    """These bytes are no state that can be used, or this state cannot become bytes; the message says why."""


class UnstorableState(StateCodecError):
    """States that hold no number, or one too large for the dtype; none of the batch was packed.

    Attributes:
        rows: places in the batch.
    """

    def __init__(self, rows: list[int], reason: str) -> None:
        super().__init__(f"state of row {', '.join(map(str, rows))} of the batch {reason}")
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One vehicle's recurrent state at a known sample."""

    fingerprint: str  # 32 hex digits
    epoch: int
    seq: int
    conv: Singles  # (n_layer, conv_width, d_conv - 1)
    ssm: Singles  # (n_layer, d_inner, d_state)
    dtype: SnapshotDtype = "fp32"  # as which it was held; the arrays are fp32 in any case


class Shapes(NamedTuple):
    """Sizes of one state."""

    n_layer: int
    d_inner: int
    d_conv_1: int
    d_state: int
    conv_width: int

    @staticmethod
    def announced(sizes: Sequence[int]) -> "Shapes":
        """From a header's sizes; four of them mean that the convolution is as wide as the state."""
        n_layer, d_inner, d_conv_1, d_state, *rest = sizes
        return Shapes(n_layer, d_inner, d_conv_1, d_state, *(rest or [d_inner]))

    @property
    def layout(self) -> int:
        """The layout that holds them."""
        return 2 if self.conv_width == self.d_inner else 3

    @property
    def in_header(self) -> tuple[int, ...]:
        """The sizes that the layout's header holds."""
        return tuple(self) if self.layout == 3 else tuple(self)[:4]

    @property
    def header(self) -> struct.Struct:
        """Of the layout."""
        return HEADERS[self.layout]

    @property
    def conv(self) -> tuple[int, int, int]:
        """Of conv_state."""
        return self.n_layer, self.conv_width, self.d_conv_1

    @property
    def ssm(self) -> tuple[int, int, int]:
        """Of ssm_state."""
        return self.n_layer, self.d_inner, self.d_state

    def sections(self, dtype: SnapshotDtype) -> list[tuple[str, int]]:
        """NumPy dtype and length of each run of values behind the header."""
        rows = self.n_layer * self.conv_width, self.n_layer * self.d_inner
        conv, ssm = rows[0] * self.d_conv_1, rows[1] * self.d_state
        if dtype != "int8":
            kind = "<f4" if dtype == "fp32" else "<u2"
            return [(kind, conv), (kind, ssm)]
        scales = [n * groups_in(width) for n, width in zip(rows, (self.d_conv_1, self.d_state), strict=True)]
        return [("<u2", scales[0]), ("<u2", scales[1]), ("i1", conv), ("i1", ssm)]


def snapshot_bytes(conv_shape: Sequence[int], ssm_shape: Sequence[int], dtype: SnapshotDtype) -> int:
    """Length of a snapshot of states with these shapes (n_layer, channels, ...)."""
    return _length(_shapes(conv_shape, ssm_shape), dtype)


def pack_snapshot(snapshot: Snapshot, dtype: SnapshotDtype = "fp32") -> bytes:
    """One state as bytes; see `pack_snapshots`."""
    conv, ssm = snapshot.conv[np.newaxis], snapshot.ssm[np.newaxis]
    return pack_snapshots(snapshot.fingerprint, [snapshot.epoch], [snapshot.seq], conv, ssm, dtype)[0]


def pack_snapshots(
    fingerprint: str,
    epochs: Iterable[int],
    seqs: Iterable[int],
    conv: Singles,
    ssm: Singles,
    dtype: SnapshotDtype = "fp32",
) -> list[bytes]:
    """States of many vehicles of one model as bytes, with headers; inverse of `unpack_snapshots` up to rounding.

    Args:
        fingerprint: of the model, 32 hex digits.
        epochs: (n,).
        seqs: (n,) of the last sample in each state.
        conv: (n, n_layer, conv_width, d_conv - 1).
        ssm: (n, n_layer, d_inner, d_state).
        dtype: fp32 keeps every bit; bf16 and int8 round (service/records/state_rounding.py says how far).

    Raises:
        UnstorableState: a value is not finite, or at least 2^127 with bf16 or int8.
    """
    n, shapes = len(conv), _shapes(conv.shape[1:], ssm.shape[1:])
    conv = np.ascontiguousarray(conv, "<f4").reshape(n, -1)
    ssm = np.ascontiguousarray(ssm, "<f4").reshape(n, -1)
    _refuse_unstorable(conv, ssm, dtype)
    model, code = bytes.fromhex(fingerprint), CODES[dtype]
    packed = []
    for row, (epoch, seq) in enumerate(zip(map(int, epochs), map(int, seqs), strict=True)):
        parts = _encode(conv[row], ssm[row], shapes, dtype, dither_key(epoch, seq))
        header = shapes.header.pack(MAGIC, shapes.layout, 0, model, *shapes.in_header, code, epoch, seq)
        checksum = xxhash.xxh3_64(header[CHECKED_FROM:])
        for part in parts:
            checksum.update(part.data)
        start = header[:CHECKSUM_OFFSET] + CHECKSUM.pack(checksum.intdigest())
        packed.append(b"".join((start, header[CHECKED_FROM:], *(part.data for part in parts))))
    return packed


def unpack_snapshot(data: bytes) -> Snapshot:
    """A snapshot from its bytes; with fp32 the arrays are views of `data`.

    Raises:
        StateCodecError: too short, foreign, of another layout, of the wrong size, damaged, or with values that are no
            numbers.
    """
    if len(data) < HEADER_1.size:
        raise StateCodecError(f"{len(data)} bytes are less than a header")
    magic, version = struct.unpack_from("<4sI", data)
    if magic != MAGIC:
        raise StateCodecError(f"magic is {magic!r}, not {MAGIC!r}: this is no Emberwatch state")
    if version & 0xFFFF == 1:
        snapshot = _unpack_layout_1(data)
    elif version in HEADERS:
        snapshot = _unpack(data, HEADERS[version])
    else:
        raise StateCodecError(f"layout {version}; this version reads layouts 1, {', '.join(map(str, HEADERS))}")
    if max(_largest(snapshot.conv), _largest(snapshot.ssm)) > FINITE:
        raise StateCodecError("it holds values that are no numbers")
    return snapshot


def unpack_snapshots(blobs: Iterable[bytes]) -> list[Snapshot | StateCodecError]:
    """Each snapshot, or why it is none: a damaged one does not touch its neighbours."""
    found: list[Snapshot | StateCodecError] = []
    for data in blobs:
        try:
            found.append(unpack_snapshot(data))
        except StateCodecError as error:
            found.append(error)
    return found


def _unpack(data: bytes, header: struct.Struct) -> Snapshot:
    if len(data) < header.size:
        raise StateCodecError(f"{len(data)} bytes are less than a header")
    _, _, checksum, model, *sizes, code, epoch, seq = header.unpack_from(data)
    if code not in NAMES:
        raise StateCodecError(f"dtype {code}; this version reads {', '.join(f'{c} ({n})' for c, n in NAMES.items())}")
    shapes, dtype = Shapes.announced(sizes), NAMES[code]
    if header is not shapes.header:
        raise StateCodecError(f"layout 3 with a convolution as wide as the state: {shapes}")
    if len(data) != _length(shapes, dtype):
        raise StateCodecError(f"{len(data)} bytes do not hold the {dtype} state that the header announces: {shapes}")
    if xxhash.xxh3_64_intdigest(memoryview(data)[CHECKED_FROM:]) != checksum:
        raise StateCodecError("checksum does not match: the bytes are damaged")
    conv, ssm = _decode(np.frombuffer(data, np.uint8), shapes, dtype, dither_key(epoch, seq))
    return Snapshot(model.hex(), epoch, seq, conv.reshape(shapes.conv), ssm.reshape(shapes.ssm), dtype)


def _unpack_layout_1(data: bytes) -> Snapshot:
    _, _, code, model, *sizes, epoch, crc, seq = HEADER_1.unpack_from(data)
    if code != CODES["fp32"]:
        raise StateCodecError(f"layout 1 with dtype {code}; there was only 1 (fp32)")
    shapes = Shapes.announced(sizes)
    n_conv, n_ssm = (length for _, length in shapes.sections("fp32"))
    if len(data) != HEADER_1.size + 4 * (n_conv + n_ssm):
        raise StateCodecError(f"{len(data)} bytes do not hold the {n_conv + n_ssm} values that the header announces")
    unsigned = data[:CRC_OFFSET] + bytes(4) + data[CRC_OFFSET + 4 : HEADER_1.size]
    if zlib.crc32(memoryview(data)[HEADER_1.size :], zlib.crc32(unsigned)) != crc:
        raise StateCodecError("checksum does not match: the bytes are damaged")
    values = np.frombuffer(data, "<f4", offset=HEADER_1.size)
    conv, ssm = values[:n_conv].reshape(shapes.conv), values[n_conv:].reshape(shapes.ssm)
    return Snapshot(model.hex(), epoch, seq, conv, ssm)


def _shapes(conv: Sequence[int], ssm: Sequence[int]) -> Shapes:
    n_layer, conv_width, d_conv_1 = conv
    return Shapes(n_layer, ssm[1], d_conv_1, ssm[2], conv_width)


def _length(shapes: Shapes, dtype: SnapshotDtype) -> int:
    return shapes.header.size + sum(np.dtype(kind).itemsize * length for kind, length in shapes.sections(dtype))


def _parts(record: Bytes, shapes: Shapes, dtype: SnapshotDtype) -> list[NDArray[np.generic]]:
    """Views of the sections of a record (length,)."""
    parts, start = [], shapes.header.size
    for kind, length in shapes.sections(dtype):
        end = start + np.dtype(kind).itemsize * length
        parts.append(record[start:end].view(kind))
        start = end
    return parts


def _largest(values: Singles) -> int:
    """Bits of the largest magnitude, as an integer: they are ordered as the magnitudes are."""
    return roundings().largest(values.reshape(-1).view(np.uint32))


def _refuse_unstorable(conv: Singles, ssm: Singles, dtype: SnapshotDtype) -> None:
    """Raise UnstorableState if a row of either (n, values) cannot be held."""
    largest = np.array([max(_largest(conv[row]), _largest(ssm[row])) for row in range(len(conv))], np.int64)
    if (rows := np.flatnonzero(largest > FINITE)).size:
        raise UnstorableState(rows.tolist(), "holds values that are no numbers")
    if dtype != "fp32" and (rows := np.flatnonzero(largest >= TOO_LARGE)).size:
        raise UnstorableState(rows.tolist(), f"holds values of 2^127 or more, too large for {dtype}")


def _encode(conv: Singles, ssm: Singles, shapes: Shapes, dtype: SnapshotDtype, key: int) -> list[NDArray[np.generic]]:
    """The sections of a record, from flat arrays of one state."""
    if dtype == "fp32":
        return [conv, ssm]
    outs = [np.empty(length, kind) for kind, length in shapes.sections(dtype)]
    if dtype == "bf16":
        for values, out in zip((conv, ssm), outs, strict=True):
            roundings().to_bf16(values.view(np.uint32), out)
        return outs
    first = 0
    for values, width, scales, out in zip(
        (conv, ssm), (shapes.d_conv_1, shapes.d_state), outs[:2], outs[2:], strict=True
    ):
        scratch = np.empty(scales.size, np.float32)
        roundings().to_int8(
            values, values.view(np.uint32), width, key, first, scratch, scratch.view(np.uint32), scales, out
        )
        first += values.size
    return outs


def _decode(record: Bytes, shapes: Shapes, dtype: SnapshotDtype, key: int) -> tuple[Singles, Singles]:
    """Flat conv_state and ssm_state from a whole record."""
    parts = _parts(record, shapes, dtype)
    if dtype == "fp32":
        return parts[0].astype(np.float32, copy=False), parts[1].astype(np.float32, copy=False)
    conv, ssm = (np.empty(part.size, np.float32) for part in parts[-2:])
    if dtype == "bf16":
        for out, part in zip((conv, ssm), parts, strict=True):
            roundings().from_bf16(part, out.view(np.uint32))
        return conv, ssm
    first = 0
    for out, width, scales, values in zip(
        (conv, ssm), (shapes.d_conv_1, shapes.d_state), parts[:2], parts[2:], strict=True
    ):
        scratch = np.empty(scales.size, np.float32)
        roundings().from_int8(values, scales, width, key, first, scratch, scratch.view(np.uint32), out)
        first += out.size
    return conv, ssm
