"""Alerts as the API shows them. Times are epoch milliseconds, of the vehicle's clock unless said otherwise."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RuleName = Literal["thermal_risk", "telemetry_anomaly"]
SeverityName = Literal["warning", "critical"]
PhaseName = Literal["pending", "firing", "recovering", "resolved", "stale"]

ALERT_EXAMPLE: dict[str, Any] = {
    "id": "van-1.thermal_risk.1.1751261600029",
    "event_id": "van-1.thermal_risk.1.1751261600029-2",
    "vehicle_id": "van-1",
    "rule": "thermal_risk",
    "severity": "warning",
    "phase": "firing",
    "transition": "firing",
    "first_crossed_ms": 1751261600029,
    "fired_ms": 1751261660029,
    "resolved_ms": None,
    "updated_ms": 1751261660029,
    "risk": 0.71,
    "peak_risk": 0.71,
    "surprise": -1.2,
    "value": 0.71,
    "peak_value": 0.71,
    "threshold": 0.48,
    "resolve_threshold": 0.24,
    "critical_threshold": 0.8,
    "horizon_s": 7200.0,
    "contributions": [
        {
            "channel": "motor_temperature",
            "unit": "degC",
            "value": 118.5,
            "expected": 61.2,
            "deviation": 3.4,
            "since_ms": 1751261390029,
            "since_at_least": True,
        }
    ],
    "course": [[1751261390029, 0.12], [1751261600029, 0.52], [1751261660029, 0.71]],
    "position": {"latitude": 34.1529, "longitude": -118.816, "ts_ms": 1751261660029},
    "model": "0f3a5c7e9b1d2f4a6c8e0b1d3f5a7c9e",
    "epoch": 1,
    "seq": 963,
    "acknowledged": None,
}


class AlertPosition(BaseModel):
    """Filtered position after the last fix, WGS 84 degrees; `ts_ms` is the last sample's."""

    latitude: float
    longitude: float
    ts_ms: int


class Contribution(BaseModel):
    """A channel that is far off."""

    channel: str
    unit: str
    value: float | None = Field(description="null where only its clipped z-score is known")
    expected: float | None = Field(description="usual for this vehicle; of telemetry_anomaly: the model's forecast")
    deviation: float | None = Field(description="signed, standard deviations: of the vehicle, or of the forecast")
    since_ms: int = Field(description="since when at least half as far off; telemetry_anomaly: since the alert crossed")
    since_at_least: bool = Field(default=False, description="or longer: the samples at hand begin there")


class Acknowledgement(BaseModel):
    """Who has taken the alert on."""

    by: str
    at_ms: int = Field(description="by the service's clock")
    note: str = ""


class Alert(BaseModel):
    """The last alert of a vehicle and a rule, as its last change left it."""

    id: str = Field(description="the same for every change of one episode")
    event_id: str = Field(description="the same for every delivery of one change")
    vehicle_id: str
    rule: RuleName
    severity: SeverityName
    phase: PhaseName
    transition: str = Field(description="the last change")
    first_crossed_ms: int
    fired_ms: int | None
    resolved_ms: int | None
    updated_ms: int
    risk: float | None
    peak_risk: float | None
    surprise: float | None
    value: float | None = Field(description="what the thresholds are for: the risk, or the smoothed surprise")
    peak_value: float | None
    threshold: float
    resolve_threshold: float
    critical_threshold: float | None
    horizon_s: float
    contributions: list[Contribution]
    course: list[tuple[int, float]] = Field(description="[ts_ms, risk] of some of the samples before the change")
    position: AlertPosition | None
    model: str = Field(description="fingerprint")
    epoch: int
    seq: int
    acknowledged: Acknowledgement | None

    model_config = ConfigDict(json_schema_extra={"examples": [ALERT_EXAMPLE]})


class AlertList(BaseModel):
    """A page of alerts, the latest change first."""

    alerts: list[Alert]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last")

    model_config = ConfigDict(json_schema_extra={"examples": [{"alerts": [ALERT_EXAMPLE], "next_cursor": None}]})
