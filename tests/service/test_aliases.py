"""Foreign names: each gives our signal in our unit, in objects and in columns."""

import httpx
import pytest

from model.channels import VAN_SCHEMA, Channel, ChannelSchema, Signal
from service.wire.aliases import ALIASES, Alias, aliases_table, wire_signals
from service.wire.decode import Decoder
from tests.conftest import REPOSITORY
from tests.service.conftest import START_MS, sample

DECODER = Decoder(VAN_SCHEMA, 100, 100)
SENT = {  # what is sent by each name, and what it is in our unit
    "Vehicle.CurrentLocation.Latitude": (48.1374, 48.1374),
    "Vehicle.CurrentLocation.Longitude": (11.5755, 11.5755),
    "Vehicle.CurrentLocation.Altitude": (519.0, 519.0),
    "Vehicle.Speed": (90.0, 25.0),
    "Vehicle.Powertrain.TractionBattery.StateOfCharge.Current": (71.5, 71.5),
    "Vehicle.Powertrain.ElectricMotor.Temperature": (64.0, 64.0),
    "Vehicle.Powertrain.TractionBattery.CurrentCurrent": (-120.5, 120.5),
    "Vehicle.Powertrain.TractionBattery.Temperature.Max": (31.0, 31.0),
    "Vehicle.Exterior.AirTemperature": (-4.5, -4.5),
    "Location.latitude": (48.1374, 48.1374),
    "Location.longitude": (11.5755, 11.5755),
    "VehicleSpeed": (50.0, 22.352),
    "Soc": (71.5, 71.5),
    "BatteryLevel": (71.5, 71.5),
    "DiStatorTempR": (64.0, 64.0),
    "DiStatorTempF": (64.0, 64.0),
    "DiStatorTempREL": (64.0, 64.0),
    "DiStatorTempRER": (64.0, 64.0),
    "PackCurrent": (58.0, -58.0),
    "ModuleTempMax": (31.0, 31.0),
    "OutsideTemp": (21.5, 21.5),
}
OTHER_COORDINATE = {
    "latitude": ("longitude", 11.0),
    "longitude": ("latitude", 48.0),
}


def test_every_alias_is_tried_below() -> None:
    """A name without an example here would be untested."""
    assert set(SENT) == {alias.name for alias in ALIASES}
    assert len(ALIASES) == len(SENT)


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: alias.name)
def test_a_foreign_name_is_our_signal_in_our_unit(alias: Alias) -> None:
    """One by one, as an object and as a column, beside a coordinate's other half where it needs one."""
    value, ours = SENT[alias.name]
    other = dict([OTHER_COORDINATE[alias.signal]]) if alias.signal in OTHER_COORDINATE else {}
    rows = DECODER.rows([{"vehicle_id": "a", "ts": START_MS, "signals": {alias.name: value, **other}}], None)
    columns = {name: [value] for name, value in ({alias.name: value} | other).items()}
    table = DECODER.columns({"vehicle_id": ["a"], "ts": [START_MS], **columns}, None)
    place = VAN_SCHEMA.signal_names.index(alias.signal)
    for decoded in (rows, table):
        assert not decoded.errors
        assert decoded.samples.signals[0, place] == pytest.approx(ours, rel=1e-12)
    assert rows.samples.digest == table.samples.digest


def test_two_names_of_one_signal_in_one_sample_are_an_error_naming_both() -> None:
    """Whichever was meant, the other is refused; a sample with one of them beside it is not."""
    both = {"speed": 1.0, "Soc": 70.0, "BatteryLevel": 71.0}
    decoded = DECODER.rows(
        [
            {"vehicle_id": "a", "ts": START_MS, "signals": both},
            {"vehicle_id": "b", "ts": START_MS, "signals": {"Soc": 70.0}},
            {"vehicle_id": "c", "ts": START_MS, "signals": {"BatteryLevel": 71.0, "Soc": None}},
        ],
        None,
    )
    (error,) = decoded.errors[0]
    assert {"Soc", "BatteryLevel"} <= set(f"{error.field} {error.reason}".replace(".", " ").replace(",", " ").split())
    assert set(decoded.errors) == {0}
    place = VAN_SCHEMA.signal_names.index("state_of_charge")
    assert decoded.samples.signals[:, place].tolist() == [70.0, 71.0]
    table = {"vehicle_id": ["a", "b"], "ts": [START_MS] * 2, "Soc": [70.0, None], "state_of_charge": [70.0, 71.0]}
    assert set(DECODER.columns(table, None).errors) == {0}


def test_a_range_is_told_in_our_unit_under_the_name_that_was_sent() -> None:
    """The sender finds his field, and why its converted value is refused."""
    decoded = DECODER.rows([{"vehicle_id": "a", "ts": START_MS, "signals": {"VehicleSpeed": 300.0}}], None)
    (error,) = decoded.errors[0]
    assert (error.field, error.reason) == ("signals.VehicleSpeed", "must be at most 100 m/s as speed, is 134.112")


def test_aliases_follow_the_checkpoints_schema() -> None:
    """An alias of a signal that is not there, or in another unit, is unknown."""
    schema = ChannelSchema(
        (Signal("speed", "km/h", 0.0, 300.0, "x"), Signal("state_of_charge", "%", 0.0, 100.0, "x")),
        (Channel("state_of_charge", "%", "state_of_charge"),),
    )
    assert set(wire_signals(schema)) == {
        "speed", "state_of_charge", "Soc", "BatteryLevel", "Vehicle.Powertrain.TractionBattery.StateOfCharge.Current",
    }  # fmt: skip


def test_the_same_drive_under_foreign_names_has_the_same_risk(http: httpx.Client, vehicle: str) -> None:
    """Through the whole service, names and units make no difference."""
    ours = [sample(i) for i in range(5)]
    theirs = [
        {
            **row,
            "signals": {
                "Location.latitude": row["signals"]["latitude"],
                "Location.longitude": row["signals"]["longitude"],
                "Vehicle.Speed": row["signals"]["speed"] * 3.6,
                "Soc": row["signals"]["state_of_charge"],
                "DiStatorTempR": row["signals"]["motor_temperature"],
                "brake_events": row["signals"]["brake_events"],
            },
        }
        for row in ours
    ]
    risks = [
        [item["risk"] for item in http.post(f"/v1/vehicles/{name}/telemetry", json=rows).json()["items"]]
        for name, rows in ((vehicle, ours), (f"{vehicle}.foreign", theirs))
    ]
    assert risks[1] == pytest.approx(risks[0], rel=1e-6)


def test_the_documented_table_is_the_code() -> None:
    """docs/api.md shows every name as the code has it."""
    assert aliases_table() in (REPOSITORY / "docs" / "api.md").read_text(), (
        "render service.wire.aliases.aliases_table()"
    )
