"""What the API answers, as documented models. Times are epoch milliseconds where the name ends in _ms."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VehicleId = str
AlertPhase = Literal["inactive", "pending", "firing", "recovering", "stale"]


def example(value: dict[str, Any]) -> ConfigDict:
    """The model configuration that shows `value` in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [value]})


class FieldProblem(BaseModel):
    """Why one field was refused."""

    field: str
    reason: str


class Item(BaseModel):
    """The answer to one sample."""

    i: int = Field(description="place in the request")
    status: Literal["applied", "duplicate", "late", "invalid", "conflict", "deferred", "overloaded"]
    seq: int | None = None
    risk: float | None = Field(None, description="calibrated probability of a thermal event within the horizon")
    surprise: float | None = Field(None, description="nats per channel under the model's own forecast")
    phase: Literal["inactive", "pending", "firing", "recovering"] | None = Field(
        None, description="of the vehicle's thermal_risk alert"
    )
    warming_up: bool | None = Field(None, description="no alert is raised yet")
    reason: str | None = None
    errors: list[FieldProblem] | None = None

    model_config = example(
        {
            "i": 0,
            "status": "applied",
            "seq": 88121,
            "risk": 0.0021,
            "surprise": 0.4,
            "phase": "inactive",
            "warming_up": False,
        }
    )


class Summary(BaseModel):
    """The answer to several samples."""

    applied: int
    duplicate: int
    rejected: int
    items: list[Item] = Field(description="one per sample; with Prefer: return=minimal only those not applied")

    model_config = example(
        {
            "applied": 1,
            "duplicate": 0,
            "rejected": 1,
            "items": [
                {"i": 0, "status": "applied", "seq": 7, "risk": 0.0021, "surprise": 0.4, "phase": "inactive"},
                {"i": 1, "status": "late", "seq": 3, "reason": "seq 3 comes after seq 7 was accepted"},
            ],
        }
    )


class Session(BaseModel):
    """A session that has just begun."""

    vehicle_id: VehicleId
    epoch: int

    model_config = example({"vehicle_id": "van-1", "epoch": 2})


class Position(BaseModel):
    """Filtered position, WGS 84 degrees."""

    latitude: float
    longitude: float


VEHICLE_EXAMPLE: dict[str, Any] = {
    "vehicle_id": "van-1",
    "epoch": 1,
    "seq": 963,
    "samples": 964,
    "last_ts_ms": 1751261600029,
    "risk": 0.0021,
    "surprise": 0.3,
    "phase": "inactive",
    "phases": {"thermal_risk": "inactive", "telemetry_anomaly": "inactive"},
    "warming_up": False,
    "position": {"latitude": 34.1529, "longitude": -118.816},
    "current_model": True,
}


class Vehicle(BaseModel):
    """One vehicle as the store knows it."""

    vehicle_id: VehicleId
    epoch: int
    seq: int | None = Field(description="last accepted; null before the first sample of a session")
    samples: int = Field(description="accepted in this session by this model")
    last_ts_ms: int | None
    risk: float | None
    surprise: float | None
    phase: AlertPhase = Field(description="of its thermal_risk alert")
    phases: dict[str, AlertPhase] = Field(description="of its alerts, by rule")
    warming_up: bool
    position: Position | None
    current_model: bool = Field(description="false until the next sample after a change of model: the state is old")

    model_config = example(VEHICLE_EXAMPLE)


class VehicleDetail(Vehicle):
    """One vehicle, with what it costs."""

    stored_bytes: int = Field(description="memory that the store spends on its head and state")

    model_config = example(VEHICLE_EXAMPLE | {"stored_bytes": 277968})


class VehicleList(BaseModel):
    """A page of vehicles, highest risk first."""

    vehicles: list[Vehicle]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last")

    model_config = example({"vehicles": [VEHICLE_EXAMPLE], "next_cursor": None})


class ModelInfo(BaseModel):
    """The model in service and what one vehicle costs at most."""

    fingerprint: str
    backend: str
    device: str
    horizon_s: float
    warmup_samples: int
    alert_threshold: float
    resolve_threshold: float
    alert_rules: dict[str, dict[str, float | None]] = Field(description="thresholds in force, by rule")
    parameters: int
    config: dict[str, Any]
    signals: list[dict[str, Any]]
    channels: list[dict[str, Any]]
    bytes_per_vehicle: dict[str, int] = Field(
        description="upper bounds: in the store, and in the worker that has it in its cache"
    )
    provenance: dict[str, Any]

    model_config = example(
        {
            "fingerprint": "0f3a5c7e9b1d2f4a6c8e0b1d3f5a7c9e",
            "backend": "reference",
            "device": "cpu",
            "horizon_s": 7200.0,
            "warmup_samples": 60,
            "alert_threshold": 0.35,
            "resolve_threshold": 0.17,
            "alert_rules": {"thermal_risk": {"threshold": 0.35, "resolve_threshold": 0.17, "critical_threshold": 0.7}},
            "parameters": 619795,
            "config": {"block": "mamba1", "d_model": 128, "n_layer": 4, "d_state": 64},
            "signals": [{"name": "speed", "unit": "m/s", "minimum": 0.0, "maximum": 100.0}],
            "channels": [{"name": "speed", "unit": "m/s", "source": "speed"}],
            "bytes_per_vehicle": {
                "head": 1504,
                "journal": 57568,
                "state": 274432,
                "snapshot": 327904,
                "trend": 98528,
                "index": 2048,
                "total_in_store": 487552,
                "total_in_worker": 278296,
            },
            "provenance": {"data": "simulated fleet", "seed": 0},
        }
    )


class Health(BaseModel):
    """The service is alive, or ready."""

    status: Literal["ok"] = "ok"

    model_config = example({"status": "ok"})


class Problem(BaseModel):
    """RFC 9457 problem details; calls may add members."""

    type: str
    title: str
    status: int
    detail: str

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:emberwatch:problem:invalid-sample",
                    "title": "Unprocessable Entity",
                    "status": 422,
                    "detail": "signals.speed: Input should be less than or equal to 100",
                    "verdict": "invalid",
                    "errors": [{"field": "signals.speed", "reason": "Input should be less than or equal to 100"}],
                }
            ]
        },
    )


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problem details that a call may answer."""
    media = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"model": Problem, "content": media} for code in codes}
