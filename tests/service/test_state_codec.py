"""States as bytes: what goes in comes out, as far as its dtype says, and nothing else is believed."""

import struct
import zlib
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from service.records.state_codec import (
    CHECKSUM_OFFSET,
    CRC_OFFSET,
    HEADER_1,
    HEADERS,
    Snapshot,
    SnapshotDtype,
    StateCodecError,
    UnstorableState,
    pack_snapshot,
    pack_snapshots,
    snapshot_bytes,
    unpack_snapshot,
    unpack_snapshots,
)
from service.records.state_rounding import GROUP

DTYPES: tuple[SnapshotDtype, ...] = get_args(SnapshotDtype)
MODEL = "00ff" * 8


@pytest.fixture
def rng() -> np.random.Generator:
    """Other numbers in every run; the seed is in the report of a failure."""
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print("seed", seed)  # noqa: T201 - shown by pytest when the test fails
    return np.random.default_rng(seed)


def some_states(rng: np.random.Generator, n: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States of magnitudes over many powers of ten, with rows and groups of zeros; odd sizes, of both kinds of block."""
    n_layer, d_inner, d_state = 2, int(rng.integers(1, 9)), int(rng.integers(1, 70))
    conv_width = d_inner + (2 * d_state if rng.random() < 0.5 else 0)
    arrays = []
    for channels, width in ((conv_width, 3), (d_inner, d_state)):
        rows = rng.normal(size=(n, n_layer, channels, width)) * 10.0 ** rng.uniform(-30, 30, (n, n_layer, channels, 1))
        rows[rng.random(rows.shape[:-1]) < 0.2] = 0.0
        arrays.append(rows.astype(np.float32))
    return arrays[0], arrays[1]


def pack_one(rng: np.random.Generator, dtype: SnapshotDtype) -> bytes:
    """Bytes of a random state."""
    conv, ssm = some_states(rng, 1)
    return pack_snapshots(MODEL, [3], [2**40 + 1], conv, ssm, dtype)[0]


def half_scales(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The bound of int8 for each value: half the group's scale, which is its largest magnitude / 126.5, a bf16 up."""
    width = values.shape[-1]
    bound = np.zeros(values.shape)
    for start in range(0, width, GROUP):
        group = np.abs(values[..., start : start + GROUP].astype(np.float64))
        scale = group.max(-1, keepdims=True) / 126.5 * (1 + 2**-7)
        scale = np.where(scale > 0, np.maximum(scale, 2.0**-133), 0.0)
        bound[..., start : start + GROUP] = scale / 2
    return bound


def test_fp32_keeps_every_bit(rng: np.random.Generator) -> None:
    """Every field and every value, signed zeros and subnormal numbers too."""
    conv, ssm = some_states(rng)
    ssm.flat[0], ssm.flat[1] = -0.0, 1e-45
    epochs, seqs = rng.integers(1, 2**32, 3).tolist(), rng.integers(-1, 2**62, 3).tolist()
    packed = pack_snapshots(MODEL, epochs, seqs, conv, ssm)
    for row, data in enumerate(packed):
        again = unpack_snapshot(data)
        assert (again.fingerprint, again.epoch, again.seq, again.dtype) == (MODEL, epochs[row], seqs[row], "fp32")
        assert again.conv.tobytes() == conv[row].tobytes()
        assert again.ssm.tobytes() == ssm[row].tobytes()


def test_bf16_is_the_nearest(rng: np.random.Generator) -> None:
    """Relative error at most 2^-8 with ties to even, as torch rounds."""
    torch = pytest.importorskip("torch")
    conv, ssm = some_states(rng)
    for row, data in enumerate(pack_snapshots(MODEL, [1] * 3, [0] * 3, conv, ssm, "bf16")):
        again = unpack_snapshot(data)
        for mine, value in ((again.conv, conv[row]), (again.ssm, ssm[row])):
            assert np.array_equal(mine, torch.from_numpy(value).bfloat16().float().numpy())


def test_int8_is_within_half_a_scale(rng: np.random.Generator) -> None:
    """Every value, whatever the size of its neighbours; zeros among zeros stay zeros."""
    conv, ssm = some_states(rng)
    for row, data in enumerate(pack_snapshots(MODEL, [1] * 3, rng.integers(0, 2**40, 3), conv, ssm, "int8")):
        again = unpack_snapshot(data)
        for mine, value in ((again.conv, conv[row]), (again.ssm, ssm[row])):
            error, bound = np.abs(mine.astype(np.float64) - value), half_scales(value)
            assert (error <= bound * (1 + 1e-4)).all()
            assert not mine[bound == 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_and_large_numbers_are_held(dtype: SnapshotDtype) -> None:
    """Subnormal numbers, and the largest below 2^127, stay within their bounds."""
    edge = np.nextafter(np.float32(2.0**127), np.float32(0))
    ssm = np.array([1e-45, -3e-44, 1e-40, 0.0, edge, -edge, 1.0, 0.0], np.float32).reshape(1, 1, 2, 4)
    conv = np.zeros((1, 1, 2, 3), np.float32)
    again = unpack_snapshot(pack_snapshots(MODEL, [1], [7], conv, ssm, dtype)[0])
    error = np.abs(again.ssm.astype(np.float64) - ssm[0])
    relative = {"fp32": 0.0, "bf16": 2.0**-8, "int8": 0.0}[dtype]
    floor = {"fp32": 0.0, "bf16": 2.0**-134, "int8": 0.0}[dtype]
    bound = (
        half_scales(ssm[0]) * (1 + 1e-4) if dtype == "int8" else np.abs(ssm[0].astype(np.float64)) * relative + floor
    )
    assert (error <= bound).all()


def test_the_dither_takes_the_bias_out(rng: np.random.Generator) -> None:
    """A value that grows by less than half a scale between snapshots grows all the same, and packing is repeatable."""
    ssm = np.zeros((1, 1, 1, 16), np.float32)
    ssm[..., 0] = 126.5  # scale 1
    ssm[..., 1:] = value = rng.uniform(0.1, 0.4)
    conv = np.zeros((1, 1, 1, 3), np.float32)
    seqs = range(60, 60 * 2001, 60)
    read = np.array([unpack_snapshot(pack_snapshots(MODEL, [1], [seq], conv, ssm, "int8")[0]).ssm for seq in seqs])
    mean = read[..., 1:].mean(axis=0)
    assert np.abs(mean - value).max() < 6 * np.sqrt(1 / 12 / len(seqs))
    first, second = (pack_snapshots(MODEL, [1], [60], conv, ssm, "int8") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_its_members(rng: np.random.Generator, dtype: SnapshotDtype) -> None:
    """Packing many gives the bytes of packing each; sizes are as announced."""
    conv, ssm = some_states(rng, 5)
    together = pack_snapshots(MODEL, range(1, 6), range(10, 60, 10), conv, ssm, dtype)
    for row, data in enumerate(together):
        assert pack_snapshot(Snapshot(MODEL, row + 1, 10 * row + 10, conv[row], ssm[row]), dtype) == data
        assert len(data) == snapshot_bytes(conv.shape[1:], ssm.shape[1:], dtype)


def test_only_a_wider_convolution_needs_layout_3(rng: np.random.Generator) -> None:
    """A state of Mamba-1 is written as before; the convolution of Mamba-2 has its own number of channels."""
    ssm = rng.normal(size=(1, 2, 6, 5)).astype(np.float32)
    for channels, layout in ((6, 2), (16, 3)):
        conv = rng.normal(size=(1, 2, channels, 3)).astype(np.float32)
        data = pack_snapshots(MODEL, [1], [7], conv, ssm)[0]
        assert data[4] == layout
        assert np.array_equal(unpack_snapshot(data).conv, conv[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_packed(rng: np.random.Generator, dtype: SnapshotDtype, value: float) -> None:
    """The rows at fault are named, so that the others can be packed without them."""
    conv, ssm = some_states(rng, 4)
    conv[1].flat[-1] = value
    ssm[3].flat[0] = value
    with pytest.raises(UnstorableState, match="row 1, 3 of the batch holds values that are no numbers") as caught:
        pack_snapshots(MODEL, [1] * 4, [1] * 4, conv, ssm, dtype)
    assert caught.value.rows == [1, 3]


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_what_is_too_large_for_the_dtype_is_not_packed(rng: np.random.Generator, dtype: SnapshotDtype) -> None:
    """From 2^127 on; fp32 takes it."""
    conv, ssm = some_states(rng, 2)
    ssm[1].flat[0] = -(2.0**127)
    with pytest.raises(UnstorableState, match=f"row 1 of the batch .* too large for {dtype}"):
        pack_snapshots(MODEL, [1] * 2, [1] * 2, conv, ssm, dtype)
    assert len(pack_snapshots(MODEL, [1] * 2, [1] * 2, conv, ssm)) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_damaged_byte_is_noticed(rng: np.random.Generator, dtype: SnapshotDtype) -> None:
    """Flipping one bit anywhere, header and checksum included, is refused."""
    data = pack_one(rng, dtype)
    first = HEADERS[data[4]].size
    for position in [*range(first), *rng.integers(first, len(data), 50).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(StateCodecError):
            unpack_snapshot(bytes(damaged))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reason_is_named(rng: np.random.Generator, dtype: SnapshotDtype) -> None:
    """Short, foreign, of a later version, cut off and damaged are told apart."""
    data = pack_one(rng, dtype)
    at = HEADERS[data[4]].size - 16  # of the dtype
    for wrong, reason in (
        (b"", "less than a header"),
        (data[:60], "less than a header"),
        (b"RDB1" + data[4:], "no Emberwatch state"),
        (data[:4] + struct.pack("<I", 4) + data[8:], "layout 4"),
        (data[:at] + struct.pack("<I", 4) + data[at + 4 :], "dtype 4"),
        (data[:-1], "do not hold"),
        (data + b"\0", "do not hold"),
        (data[:CHECKSUM_OFFSET] + bytes(8) + data[CHECKSUM_OFFSET + 8 :], "checksum"),
    ):
        with pytest.raises(StateCodecError, match=reason):
            unpack_snapshot(wrong)


def test_a_damaged_one_leaves_its_neighbours_alone(rng: np.random.Generator) -> None:
    """Of a batch, each is read or refused on its own."""
    good = pack_one(rng, "int8")
    first, second, third = unpack_snapshots([good, good[:-1], good])
    assert isinstance(first, Snapshot)
    assert isinstance(second, StateCodecError)
    assert isinstance(third, Snapshot)


def layout_1(rng: np.random.Generator, value: float = 1.0) -> tuple[bytes, NDArray[np.float32]]:
    """A snapshot as the previous version wrote it."""
    values = rng.normal(size=2 * 6 * (3 + 5)).astype("<f4")
    values[7] = value

    def header(crc: int) -> bytes:
        return HEADER_1.pack(b"EWST", 1, 1, bytes.fromhex(MODEL), 2, 6, 3, 5, 4, crc, 99)

    return header(zlib.crc32(header(0) + values.tobytes())) + values.tobytes(), values


def test_layout_1_is_still_read(rng: np.random.Generator) -> None:
    """States that the previous version stored survive the update; damage to them is noticed."""
    data, values = layout_1(rng)
    old = unpack_snapshot(data)
    assert (old.fingerprint, old.epoch, old.seq, old.dtype) == (MODEL, 4, 99, "fp32")
    assert np.array_equal(old.conv.ravel(), values[:36])
    assert np.array_equal(old.ssm.ravel(), values[36:])
    for wrong, reason in (
        (data[:-4], "do not hold"),
        (data[:6] + b"\2\0" + data[8:], "layout 1 with dtype 2"),
        (data[:CRC_OFFSET] + bytes(4) + data[CRC_OFFSET + 4 :], "checksum"),
        (data[:60] + bytes([data[60] ^ 0x55]) + data[61:], "checksum"),
    ):
        with pytest.raises(StateCodecError, match=reason):
            unpack_snapshot(wrong)


def test_no_number_is_read_either(rng: np.random.Generator) -> None:
    """A whole and rightly signed snapshot with a NaN in it came from elsewhere and is refused."""
    with pytest.raises(StateCodecError, match="no numbers"):
        unpack_snapshot(layout_1(rng, np.nan)[0])
