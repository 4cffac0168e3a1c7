"""States in fewer bits: bf16 by rounding to nearest even, int8 with scales per row and a dither that is taken out again.

int8. The last axis of an array is cut into groups of GROUP values (the last one may be shorter; a row of conv_state is
one group). Of a group with largest magnitude m the scale s is m / 126.5 rounded up to a bf16 number, and

    q = round(x / s + d),   x' = (q - d) * s,   d = dither(place, epoch, seq) in [-0.5, 0.5)

so that |x' - x| <= s / 2 (to a few units in the last place of x), and a group of zeros stays zero. d is no secret
and not random: a hash of the value's place and of the sample's number, so both sides know it and packing the same state
twice gives the same bytes. Without it a value that moves by less than s / 2 between two snapshots is put back every
time and never moves; with it the error is like noise of no memory (subtractive dither: Schuchman 1964).
docs/state-sizes.md has the measurements and what else was tried.

All functions work on flat arrays of one vehicle, in one compiled pass each, and give the same bits on every machine.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from model.jit import compiled, entry_point_for

GROUP = 16
LEVELS = np.float32(126.5)  # 127 less half a step for the dither
TOO_LARGE = 0x7F000000  # bits of 2^127: from there on a rounded value may be no number; infinities and NaN are above
FINITE = 0x7F7FFFFF  # bits of the largest number
MAGNITUDE = 0x7FFFFFFF

Bits = NDArray[np.uint32]


class Roundings(NamedTuple):
    """The compiled passes."""

    largest: Callable[[Bits], int]  # bits of the largest magnitude: above FINITE there are infinities or NaN
    to_bf16: Callable[..., None]  # (bits, out u2)
    from_bf16: Callable[..., None]  # (values u2, out u4)
    to_int8: Callable[..., None]  # (values, their bits, width, key, first place, scratch, its bits, scales u2, out i1)
    from_int8: Callable[..., None]  # (values i1, scales u2, width, key, first place, scratch, its bits, out f4)


def dither_key(epoch: int, seq: int) -> int:
    """32 bits that tell the dither of one snapshot from that of the next."""
    mixed = (seq * 0x9E3779B97F4A7C15 + epoch * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    return mixed >> 32


def groups_in(width: int) -> int:
    """Scales of a row of so many values."""
    return -(-width // GROUP)


@cache
def roundings() -> Roundings:
    """Compiled, or read from the disk's cache, on the first call."""

    def array(dtype: Any, *, readonly: bool = False) -> Any:
        return numba.types.Array(dtype, 1, "C", readonly=readonly)

    f4, u4, u2, i1, i8 = numba.float32, numba.uint32, numba.uint16, numba.int8, numba.int64
    return Roundings(
        largest=entry_point_for(_largest, array(u4, readonly=True)),
        to_bf16=entry_point_for(_to_bf16, array(u4, readonly=True), array(u2)),
        from_bf16=entry_point_for(_from_bf16, array(u2, readonly=True), array(u4)),
        to_int8=entry_point_for(
            _to_int8, array(f4, readonly=True), array(u4, readonly=True), i8, u4, i8, array(f4), array(u4), array(u2),
            array(i1),
        ),
        from_int8=entry_point_for(
            _from_int8, array(i1, readonly=True), array(u2, readonly=True), i8, u4, i8, array(f4), array(u4), array(f4)
        ),
    )  # fmt: skip


def _largest(bits: Bits) -> int:
    """Compared as integers, magnitudes of floats keep their order, and the loop becomes vector instructions."""
    found = np.uint32(0)
    for i in range(bits.size):
        found = max(found, np.uint32(bits[i] & np.uint32(MAGNITUDE)))
    return int(found)


def _to_bf16(bits: Bits, out: NDArray[np.uint16]) -> None:
    for i in range(bits.size):
        b = bits[i]
        out[i] = np.uint16(np.uint32(b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def _from_bf16(values: NDArray[np.uint16], out: Bits) -> None:
    for i in range(values.size):
        out[i] = np.uint32(values[i]) << np.uint32(16)


@compiled
def dither(place: int, key: int) -> np.float32:
    """In [-0.5, 0.5), a multiple of 2^-24: the finaliser of MurmurHash3 over place and key."""
    h = np.uint32(np.uint32(np.uint32(place) * np.uint32(0x9E3779B1)) + np.uint32(key))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return np.float32(np.int32(h >> np.uint32(8))) * np.float32(2.0**-24) - np.float32(0.5)


def _to_int8(
    values: NDArray[np.float32],
    bits: Bits,
    width: int,
    key: int,
    first: int,
    scratch: NDArray[np.float32],
    scratch_bits: Bits,
    scales: NDArray[np.uint16],
    out: NDArray[np.int8],
) -> None:
    group = 0
    for row in range(0, values.size, width):
        for start in range(row, row + width, GROUP):
            largest = np.uint32(0)
            for i in range(start, min(start + GROUP, row + width)):
                largest = max(largest, np.uint32(bits[i] & np.uint32(MAGNITUDE)))
            scratch_bits[group] = largest
            group += 1
    for g in range(group):
        some = scratch_bits[g] > 0
        scratch[g] /= LEVELS
        up = np.uint32(scratch_bits[g] + np.uint32(0xFFFF)) >> np.uint32(16)
        up = max(up, np.uint32(some))  # too small for a float of its own: the smallest bf16 number
        scales[g] = up
        scratch_bits[g] = np.uint32(up) << np.uint32(16)
    group = 0
    for row in range(0, values.size, width):
        for start in range(row, row + width, GROUP):
            scale = scratch[group] if scratch[group] > 0 else np.float32(1.0)  # zeros give zeros with any scale
            for i in range(start, min(start + GROUP, row + width)):
                out[i] = np.int8(np.int32(np.rint(np.float32(values[i] / scale + dither(first + i, key)))))
            group += 1


def _from_int8(
    values: NDArray[np.int8],
    scales: NDArray[np.uint16],
    width: int,
    key: int,
    first: int,
    scratch: NDArray[np.float32],
    scratch_bits: Bits,
    out: NDArray[np.float32],
) -> None:
    for g in range(scales.size):
        scratch_bits[g] = np.uint32(scales[g]) << np.uint32(16)
    group = 0
    for row in range(0, values.size, width):
        for start in range(row, row + width, GROUP):
            scale = scratch[group]
            for i in range(start, min(start + GROUP, row + width)):
                out[i] = (np.float32(values[i]) - dither(first + i, key)) * scale
            group += 1
