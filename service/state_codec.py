"""A recurrent state as bytes: what a snapshot in Redis holds and what `GET .../state` returns.

offset  size  field
0     4  magic "EWST"
4     2  layout version (1)
6     2  dtype (1: float32, little-endian)
8    16  model fingerprint
24    16  n_layer, d_inner, d_conv - 1, d_state (uint32 each)
40     4  epoch
44     4  CRC-32 of all other bytes
48     8  seq of the last sample in the state
56     .  conv_state, then ssm_state, C order
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEADER = struct.Struct("<4sHH16s4IIIq")
MAGIC = b"EWST"
LAYOUT_VERSION = 1
FLOAT32 = 1
CRC_OFFSET = 44

Singles = NDArray[np.float32]


class StateCodecError(ValueError):
    """These bytes are no state that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One vehicle's recurrent state at a known sample."""

    fingerprint: str  # 32 hex digits
    epoch: int
    seq: int
    conv: Singles  # (n_layer, d_inner, d_conv - 1)
    ssm: Singles  # (n_layer, d_inner, d_state)


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Header and state as bytes; inverse of `unpack_snapshot`."""
    n_layer, d_inner, d_conv_1 = snapshot.conv.shape
    d_state = snapshot.ssm.shape[2]
    payload = snapshot.conv.tobytes() + snapshot.ssm.tobytes()

    def header(crc: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            LAYOUT_VERSION,
            FLOAT32,
            bytes.fromhex(snapshot.fingerprint),
            n_layer,
            d_inner,
            d_conv_1,
            d_state,
            snapshot.epoch,
            crc,
            snapshot.seq,
        )

    return header(zlib.crc32(payload, zlib.crc32(header(0)))) + payload


def unpack_snapshot(data: bytes) -> Snapshot:
    """A snapshot from its bytes; the arrays are views of `data`.

    Raises:
        StateCodecError: too short, foreign, of another layout, of the wrong size, or damaged.
    """
    if len(data) < HEADER.size:
        raise StateCodecError(f"{len(data)} bytes are less than a header")
    magic, version, dtype, fingerprint, n_layer, d_inner, d_conv_1, d_state, epoch, crc, seq = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise StateCodecError(f"magic is {magic!r}, not {MAGIC!r}: this is no Emberwatch state")
    if (version, dtype) != (LAYOUT_VERSION, FLOAT32):
        raise StateCodecError(f"layout {version} with dtype {dtype}; this version reads layout {LAYOUT_VERSION}, fp32")
    n_conv, n_ssm = n_layer * d_inner * d_conv_1, n_layer * d_inner * d_state
    if len(data) != HEADER.size + 4 * (n_conv + n_ssm):
        raise StateCodecError(f"{len(data)} bytes do not hold the {n_conv + n_ssm} values that the header announces")
    unsigned = data[:CRC_OFFSET] + bytes(4) + data[CRC_OFFSET + 4 : HEADER.size]
    if zlib.crc32(memoryview(data)[HEADER.size :], zlib.crc32(unsigned)) != crc:
        raise StateCodecError("checksum does not match: the bytes are damaged")
    values = np.frombuffer(data, "<f4", offset=HEADER.size)
    return Snapshot(
        fingerprint=fingerprint.hex(),
        epoch=epoch,
        seq=seq,
        conv=values[:n_conv].reshape(n_layer, d_inner, d_conv_1),
        ssm=values[n_conv:].reshape(n_layer, d_inner, d_state),
    )
