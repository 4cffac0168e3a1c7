"""Decoding: every shape gives the same samples, and each bad row is told what is wrong with it."""

import json
import os
from typing import Any

import numpy as np
import pytest

from model.channels import VAN_SCHEMA, Channel, ChannelSchema, Signal
from service.errors import BodyTooLarge, InvalidColumns, ServiceError, UnreadableBody
from service.samples import CURRENT_EPOCH, NO_SEQ, Samples
from service.wire.decode import Decoded, Decoder
from service.wire.decode_columns import SignalTable
from service.wire.json_body import NotFinite, parse_json
from service.wire.plain_sample import PlainSample
from service.wire.request_body import JSON, NDJSON, decode_fleet, decode_vehicle
from tests.service.conftest import START_MS, sample

DECODER = Decoder(VAN_SCHEMA, max_samples=50, max_vehicles=20)
SHAPES = ("samples", "ndjson", "columns")


def fleet_row(i: int, **changes: Any) -> dict[str, Any]:
    """The i-th sample as one of vehicle van-<i>."""
    return {"vehicle_id": f"van-{i}", **sample(i), **changes}


def as_shape(rows: list[dict[str, Any]], shape: str) -> tuple[bytes, str]:
    """Body and media type of the same samples in one of the shapes; NaN and Infinity are written as Python writes them."""
    if shape == "samples":
        return json.dumps({"samples": rows}).encode(), JSON
    if shape == "ndjson":
        return "\n".join(json.dumps(row) for row in rows).encode(), NDJSON
    flat = [{**{k: v for k, v in row.items() if k != "signals"}, **row["signals"]} for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return json.dumps({"columns": {name: [row.get(name) for row in flat] for name in names}}).encode(), JSON


def decode(rows: list[dict[str, Any]], shape: str) -> Decoded:
    """These samples through one of the shapes."""
    body, form = as_shape(rows, shape)
    return decode_fleet(body, form, DECODER)


def same(one: Samples, other: Samples) -> bool:
    """Whether two sets of samples are equal in everything."""
    return one.vehicle_ids == other.vehicle_ids and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "signals")
        for name in ("ts_ms", "seq", "epoch", "signals", "digest")
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_samples(shape: str) -> None:
    """Ids, times, numbers and signals arrive in the schema's order, NaN where absent."""
    rows = [fleet_row(i, epoch=3) for i in range(7)]
    del rows[2]["seq"], rows[2]["epoch"], rows[3]["signals"]["speed"]
    rows[4]["ts"] = "2025-10-09T08:53:40.25+00:00"
    found = decode(rows, shape)
    assert (found.n, found.rows, found.errors) == (7, None, {})
    samples = found.samples
    assert samples.vehicle_ids == [f"van-{i}" for i in range(7)]
    assert samples.ts_ms.tolist() == [START_MS + 5_000 * i if i != 4 else START_MS + 20_250 for i in range(7)]
    assert samples.seq.tolist() == [0, 1, NO_SEQ, 3, 4, 5, 6]
    assert samples.epoch.tolist() == [3, 3, CURRENT_EPOCH, 3, 3, 3, 3]
    speed = VAN_SCHEMA.signal_names.index("speed")
    assert np.isnan(samples.signals[3, speed])
    assert samples.signals[5, speed] == rows[5]["signals"]["speed"]
    assert np.isnan(samples.signals[:, VAN_SCHEMA.signal_names.index("altitude")]).all()
    assert samples.signals.flags.c_contiguous
    assert same(samples, decode(rows, "samples").samples)


@pytest.mark.parametrize("shape", ["one", "array", "ndjson", "columns"])
def test_one_vehicles_samples_need_no_id(shape: str) -> None:
    """The vehicle is in the path, in all four shapes; a single object is told from an array of one."""
    rows = [sample(3)]
    body, form = (json.dumps(rows[0] if shape == "one" else rows).encode(), JSON)
    if shape in {"ndjson", "columns"}:
        body, form = as_shape(rows, shape)
    found, single = decode_vehicle(body, form, DECODER, "van-9")
    assert single == (shape == "one")
    assert found.samples.vehicle_ids == ["van-9"]
    assert found.samples.ts_ms.tolist() == [START_MS + 15_000]


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "vehicle id missing": ({"vehicle_id": None}, "vehicle_id", "is required"),
    "vehicle id with a space": ({"vehicle_id": "van 1"}, "vehicle_id", "at most 64"),
    "vehicle id with a newline": ({"vehicle_id": "van\n1"}, "vehicle_id", "at most 64"),
    "vehicle id empty": ({"vehicle_id": ""}, "vehicle_id", "at most 64"),
    "vehicle id too long": ({"vehicle_id": "x" * 65}, "vehicle_id", "at most 64"),
    "vehicle id a number": ({"vehicle_id": 7}, "vehicle_id", "at most 64"),
    "ts missing": ({"ts": None}, "ts", "is required"),
    "ts in seconds": ({"ts": START_MS // 1000}, "ts", "milliseconds, not seconds"),
    "ts beyond 64 bits": ({"ts": 10**19}, "ts", "years 2000 and 9999"),
    "ts beyond all bits": ({"ts": 10**40}, "ts", "years 2000 and 9999"),
    "ts a fraction": ({"ts": START_MS + 0.5}, "ts", "RFC 3339"),
    "ts a boolean": ({"ts": True}, "ts", "RFC 3339"),
    "ts a date": ({"ts": "2026-09-14"}, "ts", "RFC 3339"),
    "ts a week date": ({"ts": "2026-W38-1T08:00:05Z"}, "ts", "RFC 3339"),
    "ts without zone": ({"ts": "2026-09-14T08:00:05"}, "ts", "no time zone"),
    "ts no such day": ({"ts": "2026-02-30T08:00:05Z"}, "ts", "RFC 3339"),
    "ts before 2000": ({"ts": "1999-12-31T23:59:59Z"}, "ts", "years 2000 and 9999"),
    "ts NaN": ({"ts": float("nan")}, "ts", "RFC 3339"),
    "seq negative": ({"seq": -1}, "seq", "at least 0"),
    "seq too large": ({"seq": 2**53}, "seq", f"at most {2**53 - 1}"),
    "seq beyond 64 bits": ({"seq": 2**64}, "seq", f"at most {2**53 - 1}"),
    "seq a fraction": ({"seq": 1.5}, "seq", "integer"),
    "seq a string": ({"seq": "1"}, "seq", "integer"),
    "seq a boolean": ({"seq": True}, "seq", "integer"),
    "epoch zero": ({"epoch": 0}, "epoch", "at least 1"),
    "epoch too large": ({"epoch": 2**32}, "epoch", f"at most {2**32 - 1}"),
    "speed negative": ({"speed": -0.001}, "signals.speed", "at least 0 m/s"),
    "charge too high": ({"state_of_charge": 100.001}, "signals.state_of_charge", "at most 100 %"),
    "speed a string": ({"speed": "12"}, "signals.speed", "must be a number"),
    "speed a boolean": ({"speed": True}, "signals.speed", "must be a number"),
    "speed an object": ({"speed": {}}, "signals.speed", "must be a number"),
    "speed NaN": ({"speed": float("nan")}, "signals.speed", "must be a finite number"),
    "speed infinite": ({"speed": float("inf")}, "signals.speed", "must be a finite number"),
    "altitude minus infinite": ({"altitude": float("-inf")}, "signals.altitude", "must be a finite number"),
    "speed beyond all bits": ({"speed": 10**400}, "signals.speed", "must be a finite number"),
    "latitude alone": ({"longitude": None}, "signals", "longitude is missing"),
    "longitude alone": ({"latitude": None}, "signals", "latitude is missing"),
    "no value at all": (dict.fromkeys(sample()["signals"]), "signals", "no signal has a value"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_and_fails_alone(name: str, shape: str) -> None:
    """One row, one error of one field; the rows around it are as if it had not been there."""
    changes, field, reason = BAD[name]
    rows = [fleet_row(i) for i in range(5)]
    good = [row for i, row in enumerate(rows) if i != 2]
    outer = {"vehicle_id", "ts", "seq", "epoch"}
    rows[2] = {
        **rows[2],
        **{name: value for name, value in changes.items() if name in outer},
        "signals": rows[2]["signals"] | {name: value for name, value in changes.items() if name not in outer},
    }
    found = decode(rows, shape)
    assert set(found.errors) == {2}
    (error,) = found.errors[2]
    assert error.field == field
    assert reason in error.reason
    assert found.rows is not None
    assert found.rows.tolist() == [0, 1, 3, 4]
    assert same(found.samples, decode(good, "samples").samples)


@pytest.mark.parametrize("shape", ["samples", "ndjson"])
def test_rows_without_the_shape_of_a_sample_fail_alone(shape: str) -> None:
    """What is no object, has unknown names, or no signals is told so, once."""
    rows: list[Any] = [fleet_row(0), 7, None, [], fleet_row(4, colour="red"), fleet_row(5), fleet_row(6, signals=3)]
    del rows[5]["signals"]
    rows.append(fleet_row(7, signals={"tyre_pressure": 2.5, "speed": 1.0}))
    found = decode(rows, shape)
    assert found.rows is not None
    assert found.rows.tolist() == [0]
    assert {row: [(e.field, e.reason) for e in errors] for row, errors in found.errors.items()} == {
        1: [("sample", "must be an object")],
        2: [("sample", "must be an object")],
        3: [("sample", "must be an object")],
        4: [("colour", "unknown field")],
        5: [("signals", "is required")],
        6: [("signals", "must be an object")],
        7: [("signals.tyre_pressure", "unknown signal")],
    }


def test_lines_that_are_not_json_fail_alone() -> None:
    """A torn line is that row's error; blank lines are none."""
    good = json.dumps(fleet_row(0)).encode()
    found = decode_fleet(b"\n" + good + b'\r\n{"ts": \n \n' + good + b"}\n", NDJSON, DECODER)
    assert found.n == 3
    assert len(found.samples) == 1
    assert all(error.field == "sample" and error.reason.startswith("is not JSON") for (error,) in found.errors.values())


COLUMN_SETS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"tyre_pressure": [1.0, 2.0]}, "columns.tyre_pressure", "unknown signal"),
    "of another length": ({"speed": [1.0]}, "columns.speed", "has 1 values, ts has 2"),
    "no array": ({"speed": 1.0}, "columns.speed", "must be an array"),
    "no times": ({"ts": "now"}, "columns.ts", "must be an array"),
    "ids of another length": ({"vehicle_id": ["van-1"]}, "columns.vehicle_id", "has 1 values, ts has 2"),
}


@pytest.mark.parametrize("name", COLUMN_SETS)
def test_a_malformed_column_set_fails_the_request(name: str) -> None:
    """Columns that make no table are refused whole, by name."""
    changes, field, reason = COLUMN_SETS[name]
    columns = {"vehicle_id": ["van-1", "van-2"], "ts": [START_MS, START_MS], "speed": [1.0, 2.0]}
    with pytest.raises(InvalidColumns) as refused:
        DECODER.columns(columns | changes, None)
    assert refused.value.extra["errors"] == [{"field": field, "reason": reason}]


def test_columns_that_are_needed_are_named() -> None:
    """Times always, ids where the path has none; and none where it has one."""
    with pytest.raises(InvalidColumns, match=r"columns.vehicle_id: is required; columns.ts: is required"):
        DECODER.columns({"speed": []}, None)
    with pytest.raises(InvalidColumns, match=r"columns.vehicle_id: the vehicle is in the path"):
        DECODER.columns({"vehicle_id": ["van-1"], "ts": [START_MS], "speed": [1.0]}, "van-1")


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b"3", b'{"samples": 1}', b'{"samples": [], "columns": {}}', b'{"columns": []}', b"[" * 9_999]
)
def test_what_is_no_batch_is_unreadable(body: bytes) -> None:
    """A fleet batch has one of its three shapes."""
    with pytest.raises(UnreadableBody):
        decode_fleet(body, JSON, DECODER)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_empty_batch_is_no_error(shape: str) -> None:
    """Nothing in, nothing out."""
    body = as_shape([], "columns") if shape == "columns" else as_shape([], shape)
    if shape == "columns":
        body = (b'{"columns": {"vehicle_id": [], "ts": []}}', JSON)
    assert decode_fleet(*body, DECODER).n == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_limits_of_samples_and_vehicles(shape: str) -> None:
    """One more than allowed is refused whole, whatever the shape."""
    many = [fleet_row(i, vehicle_id="van-1") for i in range(51)]
    with pytest.raises(BodyTooLarge) as samples:
        decode(many, shape)
    assert samples.value.extra == {"limit_samples": 50}
    assert decode(many[:50], shape).n == 50
    with pytest.raises(BodyTooLarge) as vehicles:
        decode([fleet_row(i) for i in range(21)], shape)
    assert vehicles.value.extra == {"limit_vehicles": 20}


def test_whole_numbers_may_be_written_as_floats() -> None:
    """JSON does not tell 5 from 5.0, so neither do we."""
    found = decode([fleet_row(1, seq=5.0, epoch=2.0, ts=float(START_MS))], "samples").samples
    assert (found.seq[0], found.epoch[0], found.ts_ms[0]) == (5, 2, START_MS)


@pytest.mark.parametrize(
    ("text", "after_ms"),
    [
        ("2025-10-09T08:53:20Z", 0),
        ("2025-10-09t08:53:20z", 0),
        ("2025-10-09T10:53:20+02:00", 0),
        ("2025-10-09T08:53:20.0004Z", 0),
        ("2025-10-09T08:53:20.0006Z", 1),
        ("2025-10-09T08:53:20.123456789Z", 123),
    ],
)
def test_rfc_3339_times(text: str, after_ms: int) -> None:
    """Offsets, lower case, and fractions to the nearest millisecond."""
    assert decode([fleet_row(0, ts=text)], "columns").samples.ts_ms.tolist() == [START_MS + after_ms]


def test_a_schema_of_another_fleet_decides_what_is_known() -> None:
    """Signals are the checkpoint's; a signal that would hide a column of the sample is refused at start."""
    schema = ChannelSchema((Signal("oil", "K", 200.0, 500.0, "oil"),), (Channel("oil", "K", "oil"),))
    decoder = Decoder(schema, 10, 10)
    found = decoder.rows([{"vehicle_id": "a", "ts": START_MS, "signals": {"oil": 300}}], None)
    assert found.samples.signals.tolist() == [[300.0]]
    assert decoder.rows([fleet_row(0)], None).errors[0][0].reason == "unknown signal"
    clashing = ChannelSchema((Signal("ts", "K", 200.0, 500.0, "x"),), (Channel("ts", "K", "ts"),))
    with pytest.raises(ValueError, match="ts"):
        Decoder(clashing, 10, 10)


def test_not_finite_numbers_survive_parsing_by_name() -> None:
    """NaN, the infinities and numbers beyond a double keep their text; anything else that is no JSON is refused."""
    assert parse_json(b'{"a": [NaN, -Infinity, 1e999, 1.5]}') == {
        "a": [NotFinite("NaN"), NotFinite("-Infinity"), NotFinite("1e999"), 1.5]
    }
    for body in (b"{'a': NaN}", b'{"a": NaN', b'{"a": nan}', b"\xff NaN", b'{"a": "\\ud800"}'):
        with pytest.raises(ServiceError):
            parse_json(body)


def test_a_plain_sample_is_read_as_any_other_and_nothing_else_is_plain() -> None:
    """What the short way takes equals the long way's bit for bit; whatever is odd, at random, it leaves to the long way."""
    rng = np.random.default_rng(int(os.environ.get("EMBERWATCH_TEST_SEED", "0")))
    plain, taken = PlainSample(SignalTable.of(VAN_SCHEMA)), 0
    edges = [s.minimum for s in VAN_SCHEMA.signals] + [s.maximum for s in VAN_SCHEMA.signals]
    odd: list[Any] = [None, True, "12", 1e300, -1e300, 2**63, [], {}, 0, -0.0, 5, *edges]
    numbers: list[Any] = [None, True, -1, 0, 1, 2.0, 2**32 - 1, 2**32, 2**53 - 1, 2**53, "7", START_MS, 10**30]
    for i in range(2_000):
        data = json.loads(json.dumps(sample(i)))
        for _ in range(rng.integers(4)):
            part = data["signals"] if rng.random() < 0.6 else data
            name = str(rng.choice([*part, "epoch", "seq", "ts", "wrong", "speed", "Soc"] if part else ["speed"]))
            if rng.random() < 0.3:
                part.pop(name, None)
            else:
                part[name] = rng.choice(np.array(odd if part is data.get("signals") else numbers, object))
            if not isinstance(data.get("signals"), dict):
                break
        short, long = plain.read(data, "van"), DECODER.rows([data], "van")
        taken += short is not None
        assert short is None or (not long.errors and same(short, long.samples)), data
    assert 200 < taken < 1_900
