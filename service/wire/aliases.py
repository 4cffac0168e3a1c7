"""Other people's names for our signals: COVESA VSS paths and Tesla fleet-telemetry fields, converted to our units.

A name is accepted wherever a signal's own name is. Which of them a service knows follows from its checkpoint's schema:
an alias of a signal that the schema does not have, or has in another unit, is unknown there.
"""

from dataclasses import dataclass

from model.channels import ChannelSchema

KMH, MPH = 1.0 / 3.6, 0.44704  # in m/s; the international mile


@dataclass(frozen=True, slots=True)
class Alias:
    """One foreign name: our value is `factor` times theirs.

    Attributes:
        name: as sent.
        signal: ours.
        unit: ours; the schema's signal must have it.
        their_unit: what the name's owner defines it in.
        factor: from their unit to ours.
    """

    name: str
    signal: str
    unit: str
    their_unit: str
    factor: float = 1.0


BATTERY = "Vehicle.Powertrain.TractionBattery"

# Source: COVESA Vehicle Signal Specification (spec/Vehicle, spec/Powertrain); a current into the battery is positive there.
VSS = (
    Alias("Vehicle.CurrentLocation.Latitude", "latitude", "deg", "degrees"),
    Alias("Vehicle.CurrentLocation.Longitude", "longitude", "deg", "degrees"),
    Alias("Vehicle.CurrentLocation.Altitude", "altitude", "m", "m"),
    Alias("Vehicle.Speed", "speed", "m/s", "km/h", KMH),
    Alias(f"{BATTERY}.StateOfCharge.Current", "state_of_charge", "%", "percent"),
    Alias("Vehicle.Powertrain.ElectricMotor.Temperature", "motor_temperature", "degC", "celsius"),
    Alias(f"{BATTERY}.CurrentCurrent", "pack_current", "A", "A, into the battery", -1.0),
    Alias(f"{BATTERY}.Temperature.Max", "pack_temperature", "degC", "celsius"),
    Alias("Vehicle.Exterior.AirTemperature", "ambient_temperature", "degC", "celsius"),
)

# Source: teslamotors/fleet-telemetry, protos/vehicle_data.proto. `Location` is a pair there and two names here. PackCurrent
# is positive while charging.
TESLA = (
    Alias("Location.latitude", "latitude", "deg", "degrees"),
    Alias("Location.longitude", "longitude", "deg", "degrees"),
    Alias("VehicleSpeed", "speed", "m/s", "mph", MPH),
    Alias("Soc", "state_of_charge", "%", "percent"),
    Alias("BatteryLevel", "state_of_charge", "%", "percent"),
    Alias("DiStatorTempR", "motor_temperature", "degC", "celsius"),
    Alias("DiStatorTempF", "motor_temperature", "degC", "celsius"),
    Alias("DiStatorTempREL", "motor_temperature", "degC", "celsius"),
    Alias("DiStatorTempRER", "motor_temperature", "degC", "celsius"),
    Alias("PackCurrent", "pack_current", "A", "A, into the battery", -1.0),
    Alias("ModuleTempMax", "pack_temperature", "degC", "celsius"),
    Alias("OutsideTemp", "ambient_temperature", "degC", "celsius"),
)

ALIASES = VSS + TESLA


@dataclass(frozen=True, slots=True)
class WireSignal:
    """A name that is accepted for a signal: the place of the signal in the schema, and the factor to its unit."""

    place: int
    factor: float


def wire_signals(schema: ChannelSchema) -> dict[str, WireSignal]:
    """Every name under which a signal of this schema may be sent, its own first."""
    places = {name: place for place, name in enumerate(schema.signal_names)}
    own = {name: WireSignal(place, 1.0) for name, place in places.items()}
    units = {signal.name: signal.unit for signal in schema.signals}
    foreign = {a.name: WireSignal(places[a.signal], a.factor) for a in ALIASES if units.get(a.signal) == a.unit}
    return foreign | own


def aliases_table() -> str:
    """The table of docs/api.md."""
    rows = [
        f"| {owner} | `{alias.name}` | {alias.their_unit} | `{alias.signal}` | {alias.unit} | {factor_words(alias.factor)} |"
        for owner, aliases in (("VSS", VSS), ("Tesla", TESLA))
        for alias in aliases
    ]
    return "\n".join(
        ["| whose | name | their unit | signal | our unit | times |", "| --- | --- | --- | --- | --- | --- |", *rows]
    )


def factor_words(factor: float) -> str:
    """A factor as people write it."""
    return "1 / 3.6" if factor == KMH else f"{factor:g}"
