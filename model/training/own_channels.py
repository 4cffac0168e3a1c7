"""The channel schema of a user's own fleet, from a JSON file of the form of `ChannelSchema.to_json`."""

import json
import math
import re
from pathlib import Path

from model.channels import ChannelSchema
from model.training.table_file import OwnDataError

# Names become columns, JSON members and the fields of the service's pydantic models, where `model_` means something.
NAME = re.compile(r"(?!model_)[A-Za-z][A-Za-z0-9_.-]{0,63}")
TAKEN = ("ts", "vehicle_id")


def read_channels(path: Path) -> ChannelSchema:
    """The schema in a file.

    Raises:
        OwnDataError: it is not JSON, or describes no usable schema; every problem is named.
    """
    try:
        schema = ChannelSchema.from_json(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise OwnDataError([f"{path}: there is no member {error}"]) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).replace("Signal.__init__()", "a signal").replace("Channel.__init__()", "a channel")
        raise OwnDataError([f"{path}: {reason}"]) from error
    problems = [f"{path}: {problem}" for problem in schema_problems(schema)]
    if problems:
        raise OwnDataError(problems)
    return schema


def schema_problems(schema: ChannelSchema) -> list[str]:
    """What the dataclasses themselves do not refuse."""
    problems = []
    if not schema.signals or not schema.channels:
        problems.append("needs at least one signal and one channel")
    for kind, names in (("signal", schema.signal_names), ("channel", schema.channel_names)):
        problems += [f"{kind} {name!r}: a name is letters, digits and _.-, letter first, not model_*" for name in names
                     if not isinstance(name, str) or not NAME.fullmatch(name)]  # fmt: skip
    problems += [
        f"signal {name}: the name is taken by a column of every file" for name in schema.signal_names if name in TAKEN
    ]
    for signal in schema.signals:
        limits = (signal.minimum, signal.maximum)
        if not all(isinstance(limit, int | float) and math.isfinite(limit) for limit in limits):
            problems.append(f"signal {signal.name}: minimum and maximum must be finite numbers, got {limits}")
        elif signal.minimum >= signal.maximum:
            problems.append(f"signal {signal.name}: minimum {signal.minimum} is not below maximum {signal.maximum}")
    for channel in schema.channels:
        switches = (channel.per_interval, channel.hold, channel.core)
        if not all(isinstance(switch, bool) for switch in switches):
            problems.append(f"channel {channel.name}: per_interval, hold and core are true or false, got {switches}")
    if ("latitude" in schema.signal_names) != ("longitude" in schema.signal_names):
        problems.append("latitude and longitude come together or not at all")
    return problems
