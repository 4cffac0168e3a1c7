"""What a vehicle sends (signals) and what the network sees (channels).

The schema is part of the checkpoint, so another fleet can train with its own signals and channels, and the service
validates against whatever the checkpoint says.
"""

from dataclasses import asdict, dataclass
from typing import Any

SIGNALS = (
    "latitude",
    "longitude",
    "altitude",
    "speed",
    "state_of_charge",
    "motor_temperature",
    "brake_events",
    "pack_current",
    "pack_temperature",
    "ambient_temperature",
)

# Channels computed from the Kalman filters rather than read from one signal, in the order the filters give them.
MOTION = ("speed", "acceleration", "climb_rate")


@dataclass(frozen=True, slots=True)
class Signal:
    """One wire signal. Values outside [minimum, maximum] are refused."""

    name: str
    unit: str
    minimum: float
    maximum: float
    description: str


@dataclass(frozen=True, slots=True)
class Channel:
    """One model input.

    Attributes:
        name: its name in alerts and reports.
        unit: after preprocessing.
        source: a wire signal's name; a member of MOTION for a Kalman channel; with `per_interval`, a count.
        per_interval: divide by the elapsed nominal intervals, at least one, so that a count becomes a rate.
        hold: keep the last value (with the present bit off) for up to a minute while it is missing.
        core: one of the channels that suffice on their own.
    """

    name: str
    unit: str
    source: str
    per_interval: bool = False
    hold: bool = True
    core: bool = True


@dataclass(frozen=True, slots=True)
class ChannelSchema:
    """Signals accepted on the wire and channels given to the network, both in order.

    Raises:
        ValueError: names repeat, or a channel reads a signal that does not exist.
    """

    signals: tuple[Signal, ...]
    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        for kind, names in (("signal", self.signal_names), ("channel", self.channel_names)):
            repeated = {name for name in names if names.count(name) > 1}
            if repeated:
                raise ValueError(f"{kind} named twice: {', '.join(sorted(repeated))}")
        for channel in self.channels:
            if channel.source not in MOTION and channel.source not in self.signal_names:
                raise ValueError(f"channel {channel.name} reads {channel.source}, which is no signal of this schema")

    @property
    def signal_names(self) -> tuple[str, ...]:
        """Wire order."""
        return tuple(signal.name for signal in self.signals)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Model order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def d_input(self) -> int:
        """Width of one preprocessed sample: (z-score, present bit) per channel and four hour-of-day features."""
        return 2 * len(self.channels) + 4

    def to_json(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ChannelSchema":
        """Inverse of `to_json`."""
        return ChannelSchema(
            signals=tuple(Signal(**signal) for signal in data["signals"]),
            channels=tuple(Channel(**channel) for channel in data["channels"]),
        )


# Ranges are physical limits with room to spare: outside them a reading is a fault of the sender, not of the van.
VAN_SCHEMA = ChannelSchema(
    signals=(
        Signal("latitude", "deg", -90.0, 90.0, "WGS 84, together with longitude"),
        Signal("longitude", "deg", -180.0, 180.0, "WGS 84, together with latitude"),
        Signal("altitude", "m", -500.0, 9_000.0, "above mean sea level"),
        Signal("speed", "m/s", 0.0, 100.0, "over ground"),
        Signal("state_of_charge", "%", 0.0, 100.0, "of the traction battery"),
        Signal("motor_temperature", "degC", -60.0, 300.0, "of the traction motor"),
        Signal("brake_events", "count", 0.0, 1_000_000.0, "brake applications since the last sample"),
        Signal("pack_current", "A", -2_000.0, 2_000.0, "of the traction battery, discharge positive"),
        Signal("pack_temperature", "degC", -60.0, 150.0, "hottest module of the traction battery"),
        Signal("ambient_temperature", "degC", -60.0, 70.0, "outside air"),
    ),
    channels=(
        Channel("speed", "m/s", "speed"),
        Channel("acceleration", "m/s^2", "acceleration"),
        Channel("climb_rate", "m/s", "climb_rate"),
        Channel("state_of_charge", "%", "state_of_charge"),
        Channel("motor_temperature", "degC", "motor_temperature"),
        Channel("brake_events", "count per 5 s", "brake_events", per_interval=True, hold=False),
        Channel("pack_current", "A", "pack_current", core=False),
        Channel("pack_temperature", "degC", "pack_temperature", core=False),
        Channel("ambient_temperature", "degC", "ambient_temperature", core=False),
    ),
)
