"""What comes over the wire: reading samples, with a reason for each one that cannot be read.

The signals are the checkpoint's, so the pydantic model of a sample is made when the service starts.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator

from model.channels import ChannelSchema, Signal
from service.samples import CURRENT_EPOCH, NO_SEQ, FieldError, Samples

VEHICLE_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
MAX_ERRORS, LONGEST_NAME = 10, 64  # of one sample: an answer must not outgrow its question
MAX_SEQ = 2**53 - 1  # JSON numbers are exact up to here
EARLIEST_MS = 946_684_800_000  # 2000-01-01; earlier means that the sender's clock was never set
LATEST_MS = 253_402_300_799_999  # the end of year 9999


@dataclass(frozen=True, slots=True)
class Sample:
    """One readable sample of one vehicle."""

    vehicle_id: str
    ts_ms: int  # epoch milliseconds
    seq: int | None
    epoch: int | None
    signals: NDArray[np.float64]  # (n_signals,) in the schema's order, NaN when absent


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that could not be read, in its place in the array."""

    errors: tuple[FieldError, ...]


def epoch_milliseconds(value: object) -> int:
    """`2026-09-14T08:00:05Z` or epoch milliseconds as epoch milliseconds.

    Raises:
        ValueError: neither, without a zone, or outside 2000 to 9999.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be an RFC 3339 time such as 2026-09-14T08:00:05Z, or epoch milliseconds") from None
        if moment.tzinfo is None:
            raise ValueError("has no time zone; write 2026-09-14T08:00:05Z")
        try:
            milliseconds = round(moment.timestamp() * 1000)
        except (OverflowError, ValueError):
            raise ValueError("is out of range") from None
    elif isinstance(value, int) and not isinstance(value, bool):
        milliseconds = value
    else:
        raise ValueError("must be an RFC 3339 time such as 2026-09-14T08:00:05Z, or epoch milliseconds as an integer")  # noqa: TRY004  (pydantic)
    if not EARLIEST_MS <= milliseconds <= LATEST_MS:
        raise ValueError("must lie between the years 2000 and 9999 (epoch milliseconds, not seconds)")
    return milliseconds


def signal_field(signal: Signal) -> tuple[Any, Any]:
    """The pydantic field of one signal."""
    description = f"{signal.description} ({signal.unit})"
    return (float | None, Field(None, ge=signal.minimum, le=signal.maximum, description=description))


def latitude_with_longitude(signals: BaseModel) -> BaseModel:
    """A fix has both coordinates or neither; an empty sample says nothing.

    Raises:
        ValueError: one is alone, or no signal has a value.
    """
    values = signals.__dict__
    if (values.get("latitude") is None) != (values.get("longitude") is None):
        missing = "longitude" if values.get("longitude") is None else "latitude"
        raise ValueError(f"{missing} is missing: latitude and longitude come together or not at all")
    if all(value is None for value in values.values()):
        raise ValueError("no signal has a value")
    return signals


def sample_model(schema: ChannelSchema) -> type[BaseModel]:
    """The pydantic model of one sample with this schema's signals."""
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    both: Any = model_validator(mode="after")(latitude_with_longitude)
    fields: dict[str, Any] = {signal.name: signal_field(signal) for signal in schema.signals}
    signals = create_model(
        "Signals",
        __config__=strict,
        __validators__={"latitude_with_longitude": both},
        **fields,
    )
    time = Annotated[
        int,
        BeforeValidator(epoch_milliseconds, json_schema_input_type=str | int),
        Field(description="RFC 3339 time or epoch milliseconds"),
    ]
    return create_model(
        "Sample",
        __config__=strict,
        ts=(time, Field(examples=["2026-09-14T08:00:05Z"])),
        seq=(int | None, Field(None, ge=0, le=MAX_SEQ, description="number of the sample in its session")),
        epoch=(int | None, Field(None, ge=1, le=2**32 - 1, description="session; the current one when absent")),
        signals=(signals, Field()),
    )


def columns(samples: list[Sample], n_signals: int) -> Samples:
    """Readable samples as columns."""
    return Samples.of(
        [sample.vehicle_id for sample in samples],
        np.array([sample.ts_ms for sample in samples], np.int64),
        np.array([NO_SEQ if sample.seq is None else sample.seq for sample in samples], np.int64),
        np.array([CURRENT_EPOCH if sample.epoch is None else sample.epoch for sample in samples], np.int64),
        np.array([sample.signals for sample in samples], np.float64).reshape(len(samples), n_signals),
    )


class SampleReader:
    """Turns decoded JSON into samples for one checkpoint's signals."""

    def __init__(self, schema: ChannelSchema) -> None:
        self.model = sample_model(schema)
        self._names = schema.signal_names

    def read(self, vehicle_id: str, data: object) -> Sample | Unreadable:
        """One sample, or every reason why not."""
        try:
            parsed: Any = self.model.model_validate(data)
        except ValidationError as error:
            errors = [field_error(item) for item in error.errors(include_input=False, include_url=False)]
            shown = errors[:MAX_ERRORS]
            if len(errors) > MAX_ERRORS:
                shown.append(FieldError("sample", f"and {len(errors) - MAX_ERRORS} more"))
            return Unreadable(tuple(shown))
        values = parsed.signals.__dict__
        signals = np.array([math.nan if values[name] is None else values[name] for name in self._names])
        return Sample(vehicle_id, parsed.ts, parsed.seq, parsed.epoch, signals)


def field_error(item: Any) -> FieldError:
    """Pydantic's error in our words: the path of the field and the reason."""
    field = ".".join(str(part)[:LONGEST_NAME] for part in item["loc"]) or "sample"
    if item["type"] == "extra_forbidden":
        return FieldError(field, "unknown signal" if field.startswith("signals.") else "unknown field")
    return FieldError(field, item["msg"].removeprefix("Value error, "))
