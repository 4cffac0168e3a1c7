"""Every setting, its default and its meaning. Environment variables are EMBERWATCH_<NAME>."""

import ipaddress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.checkpoint import SHIPPED
from service.records.state_codec import SnapshotDtype


class Settings(BaseSettings):
    """Raises pydantic's ValidationError, naming the setting, on a value that cannot work."""

    model_config = SettingsConfigDict(env_prefix="EMBERWATCH_", extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    allow_open_network: bool = Field(default=False, description="listen on other than loopback although without keys")
    store: str = Field(
        "embedded",
        description="'embedded' (a Valkey of our own), or a URL: redis://, rediss://, unix://, redis-cluster://",
    )
    data_dir: Path = Field(Path(".emberwatch/data"), description="where the embedded store keeps its append-only file")
    partitions: int = Field(16, ge=1, le=16_384, description="fixed for a data set: vehicles are spread over so many")
    store_timeout_s: float = Field(5.0, gt=0, description="longest wait for one store call, seconds")
    checkpoint: Path = Field(SHIPPED, description="folder of the model")
    backend: Literal["auto", "reference", "cpu", "cuda", "cuda-bf16"] = Field(
        "auto", description="who computes the step"
    )
    # the state engine
    state_memory_bytes: int = Field(
        536_870_912, ge=1_048_576, description="memory for the states of vehicles in the cache; 278 kB each"
    )
    slots: int | None = Field(None, ge=2, description="vehicles in the cache; default: what state_memory_bytes holds")
    snapshot_every: int = Field(
        60, ge=1, le=10_000, description="samples of a vehicle between two snapshots of its state; 1 writes through"
    )
    snapshot_dtype: SnapshotDtype = Field(
        "fp32", description="fp32 keeps every bit; bf16 and int8 round: docs/state-sizes.md says what that does"
    )
    durability: Literal["none", "everysec", "fsync"] = Field(
        "everysec",
        description="what an acknowledgement means: the store has it (none, everysec: at most its last second is lost when "
        "it dies), or its disk has it (fsync)",
    )
    retain_history: bool = Field(
        default=False, description="keep what vehicles sent, so that a new model scans it instead of starting cold"
    )
    history_hours: float = Field(48.0, gt=0, le=8_760, description="how far back, of each vehicle")
    history_bytes: int = Field(1_048_576, ge=262_144, description="most bytes of it in the store, of each vehicle")
    # batches
    max_batch_size: int = Field(256, ge=1, description="samples (one per vehicle) in one step")
    max_wait_ms: float = Field(2.0, ge=0, description="how long the first sample of a batch waits for company")
    follow_batches: bool = Field(
        default=False,
        description="compute a batch of the same vehicles while the one before is committed (ADR 17); slower on one core",
    )
    max_queue: int = Field(65_536, ge=1, description="samples waiting for a batch before 429")
    max_future_skew_s: float = Field(300.0, ge=0, description="how far ahead of our clock a sample may be")
    # What a request may be: 48 h of one van's history (34,560 samples) fit in one.
    max_body_bytes: int = Field(16_777_216, ge=1_024, description="largest request body, unpacked or not")
    max_samples_per_request: int = Field(40_000, ge=1, description="most samples in one request")
    max_vehicles_per_request: int = Field(20_000, ge=1, description="most vehicles in one request")
    reorder_window_ms: float = Field(
        0.0, ge=0, le=60_000, description="every sample waits so long for earlier ones of its vehicle; 0: none waits"
    )
    # Who may send, and how much.
    keys_file: Path | None = Field(None, description="API keys (`emberwatch keys`); without it loopback only")
    rate_limit_samples_per_s: float = Field(0.0, ge=0, description="of one key in the long run; 0: no limit")
    rate_limit_burst: int = Field(50_000, ge=1, description="samples that a key may send at once; then at its rate")
    rate_limit_timeout_s: float = Field(0.05, gt=0, description="wait for the count; without an answer requests pass")
    max_vehicles: int = Field(
        100_000, ge=0, description="in the data set: samples of new ones beyond are refused; 0: any"
    )
    new_vehicles_per_h: int = Field(0, ge=0, description="that one key may bring in an hour; 0: any number")
    # What is in hand at once; above it 429, and connections that keep us waiting are closed.
    max_inflight_bytes: int = Field(268_435_456, ge=1_024, description="bodies in hand, all together")
    max_inflight_requests: int = Field(2_048, ge=1, description="requests being worked on")
    max_connections: int = Field(4_096, ge=1, description="connections; the one longest waited for makes room")
    head_timeout_s: float = Field(10.0, gt=0, description="for the head of a request to arrive")
    keep_alive_s: int = Field(75, ge=1, description="an idle connection stays open; vans send every five seconds")
    drain_s: float = Field(
        0.0, ge=0, description="asked to stop, serve on for so long while /readyz says no; 5 behind a balancer"
    )
    body_timeout_s: float = Field(30.0, gt=0, description="for the body of a request to arrive")
    alert_threshold: float | None = Field(None, gt=0, lt=1, description="risk that raises; default: the checkpoint's")
    resolve_threshold: float | None = Field(None, gt=0, lt=1, description="risk that resolves; default: checkpoint's")
    critical_threshold: float | None = Field(
        None, gt=0, lt=1, description="risk that is critical; default: checkpoint's"
    )
    anomaly_threshold: float | None = Field(
        None,
        description="smoothed surprise, nats per channel, that raises telemetry_anomaly; default: the checkpoint's",
    )
    telemetry_anomaly: bool = Field(default=True, description="whether that rule is in force")
    alert_for_s: float = Field(60.0, ge=0, description="how long it must stay high before an alert fires or escalates")
    alert_keep_firing_s: float = Field(300.0, ge=0, description="how long it must stay low before an alert resolves")
    stale_after_s: float = Field(
        300.0, ge=60, description="silence after which a vehicle, and its open alert, is stale"
    )
    # where alerts go (docs/delivery.md)
    sinks_file: Path | None = Field(None, description="TOML file of the sinks; without it nobody is notified")
    delivery_lease_s: float = Field(
        10.0, ge=1, le=300, description="a worker's hold on a partition's notices; another takes over when it has ended"
    )
    max_listeners: int = Field(2_000, ge=0, description="connections to GET /v1/alerts/stream of one worker")
    # what an operator sees
    drift_half_life_s: float = Field(
        86_400.0,
        gt=0,
        description="of what input_drift and score_drift remember; a day, or the hour of day looks like drift",
    )
    tracing: bool = Field(
        default=False, description="OpenTelemetry spans (extra otel) to where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info")
    log_format: Literal["json", "console"] = Field("json")

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.slots is not None and self.slots <= 2 * self.max_batch_size:
            raise ValueError(
                f"slots ({self.slots}) must exceed max_batch_size ({self.max_batch_size}) twice: two batches are under "
                "way at once"
            )
        if self.max_samples_per_request > self.max_queue:
            raise ValueError(
                f"max_samples_per_request ({self.max_samples_per_request}) must fit max_queue ({self.max_queue})"
            )
        if self.max_inflight_bytes < 2 * self.max_body_bytes:
            raise ValueError(
                f"max_inflight_bytes ({self.max_inflight_bytes}) must hold two bodies of max_body_bytes "
                f"({self.max_body_bytes})"
            )
        if self.keys_file is None and not self.allow_open_network and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is not loopback and there are no API keys: anybody could write. Create keys "
                "(`emberwatch keys create`) and set EMBERWATCH_KEYS_FILE, or put a proxy that authenticates in front and "
                "set EMBERWATCH_ALLOW_OPEN_NETWORK=true, or listen on 127.0.0.1"
            )
        return self


def without_secrets(url: str) -> str:
    """A store's URL as it may be shown: password and query hidden."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:***{at}{host}" if at else host
    return urlunsplit((parts.scheme, netloc, parts.path, "***" if parts.query else "", ""))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
