"""The sinks: where alerts go, from one TOML file (EMBERWATCH_SINKS_FILE). docs/delivery.md explains it by example."""

import base64
import binascii
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.delivery.secrets import SecretSource

Word = Literal["firing", "escalated", "resolved", "stale", "fresh", "acknowledged"]
NOTIFIED: tuple[Word, ...] = ("firing", "escalated", "resolved", "stale")
SHORTEST_KEY, LONGEST_KEY = 24, 64  # bytes; Standard Webhooks, "Signature scheme"
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"


class SinksFileError(ValueError):
    """The file cannot be used; the message names file, sink and field, and shows no value."""


class Sink(BaseModel):
    """What every kind of sink has."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="of metrics, dead letters, consumer group")
    url: str
    transitions: tuple[Word, ...] = Field(NOTIFIED, min_length=1, description="of which the sink is told")
    rules: tuple[str, ...] = Field((), description="only these rules; empty: all")
    severities: tuple[Literal["warning", "critical"], ...] = Field((), description="only these; empty: all")
    headers: dict[str, SecretSource] = Field({}, description="such as Authorization")
    timeout_s: float = Field(10.0, gt=0, le=60, description="for one attempt, from connecting to the last byte")
    retry_for_s: float = Field(21_600.0, ge=0, description="after that a dead letter; never before three attempts")
    first_retry_s: float = Field(1.0, gt=0)
    longest_retry_s: float = Field(300.0, gt=0)
    concurrency: int = Field(8, ge=1, le=64, description="requests at once, of one worker")
    ca_file: Path | None = Field(None, description="certificates to trust instead of the usual ones")
    plain_http: bool = Field(default=False, description="http:// to another machine, on purpose")

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise ValueError("must be https://host/..., or http:// for a sink on this machine")
        if parts.username or parts.password:
            raise ValueError("must not contain a password; use headers")
        return url

    @model_validator(mode="after")
    def _private(self) -> "Sink":
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not self.plain_http and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
            raise ValueError("url is http:// to another machine: use https://, or say plain_http = true")
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ValueError(f"ca_file {self.ca_file} is not a file")
        return self

    def wants(self, record: dict[str, Any], transition: str) -> bool:
        """Whether this change of an alert is for this sink."""
        return (
            transition in self.transitions
            and (not self.rules or record.get("rule") in self.rules)
            and (not self.severities or record.get("severity") in self.severities)
        )


class SignedSink(Sink):
    """A webhook of which the receiver can check who sent it (Standard Webhooks)."""

    secrets: tuple[SecretSource, ...] = Field(
        min_length=1, max_length=4, description="whsec_...; the newest first, all of them sign"
    )

    @field_validator("secrets")
    @classmethod
    def _keys(cls, secrets: tuple[SecretSource, ...]) -> tuple[SecretSource, ...]:
        for secret in secrets:
            text = secret.value.get_secret_value().removeprefix("whsec_")
            try:
                n = len(base64.b64decode(text, validate=True))
            except binascii.Error as error:
                raise ValueError("must be whsec_ and base64") from error
            if not SHORTEST_KEY <= n <= LONGEST_KEY:
                raise ValueError(f"must be {SHORTEST_KEY} to {LONGEST_KEY} bytes in base64, has {n}")
        return secrets


class WebhookSink(SignedSink):
    """Alertmanager's webhook v4, as its receivers know it."""

    kind: Literal["webhook"]


class CloudEventsSink(SignedSink):
    """CloudEvents 1.0 over HTTP, structured mode."""

    kind: Literal["cloudevents"]
    source: str = Field("/emberwatch", min_length=1, description="the event's `source`, a URI reference")


class AlertmanagerSink(Sink):
    """A Prometheus Alertmanager; open alerts are repeated before they expire there."""

    kind: Literal["alertmanager"]
    labels: dict[str, str] = Field({}, description="added to every alert")
    repeat_s: float = Field(60.0, ge=1, description="open alerts are sent again so often: it may have been restarted")
    expire_s: float = Field(3_600.0, ge=10, description="after so long without us it takes an alert for resolved")

    @model_validator(mode="after")
    def _in_time(self) -> "AlertmanagerSink":
        if self.expire_s < 3 * self.repeat_s:
            raise ValueError(f"expire_s ({self.expire_s:g}) must be at least three times repeat_s ({self.repeat_s:g})")
        return self


class PagerDutySink(Sink):
    """PagerDuty Events API v2."""

    kind: Literal["pagerduty"]
    url: str = PAGERDUTY
    routing_key: SecretSource
    transitions: tuple[Word, ...] = (*NOTIFIED, "acknowledged")


AnySink = WebhookSink | CloudEventsSink | AlertmanagerSink | PagerDutySink


class SinksFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    sink: tuple[Annotated[AnySink, Field(discriminator="kind")], ...] = ()

    @field_validator("sink")
    @classmethod
    def _apart(cls, sinks: tuple[AnySink, ...]) -> tuple[AnySink, ...]:
        names = [sink.name for sink in sinks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sinks are named {', '.join(sorted(twice))}")
        return sinks


def read_sinks(path: Path) -> tuple[AnySink, ...]:
    """The sinks of a file, with their secrets.

    Raises:
        SinksFileError.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise SinksFileError(f"the sinks file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SinksFileError(f"the sinks file {path} is not TOML: {error}") from error
    try:
        return SinksFile.model_validate(data).sink
    except ValidationError as error:
        raise SinksFileError(f"the sinks file {path}: " + "; ".join(complaints(error, data))) from error


def complaints(error: ValidationError, data: dict[str, Any]) -> list[str]:
    """Each mistake with its sink and field."""
    found = []
    for item in error.errors(include_input=False, include_url=False):
        place = [part for part in item["loc"] if part not in {"webhook", "cloudevents", "alertmanager", "pagerduty"}]
        where = ".".join(str(part) for part in place)
        if len(place) > 1 and place[0] == "sink" and isinstance(place[1], int):
            sink = data["sink"][place[1]]
            name = sink.get("name", place[1]) if isinstance(sink, dict) else place[1]
            where = ".".join([f"sink {name}", *(str(part) for part in place[2:])])
        found.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return found


def shown(sink: AnySink) -> dict[str, Any]:
    """A sink as it may be printed: secrets by where they are, the URL without path and query, which may be secret too."""
    parts = urlsplit(sink.url)
    hidden = "/***" if parts.path.strip("/") or parts.query else ""
    return sink.model_dump(mode="json", exclude_none=True) | {"url": f"{parts.scheme}://{parts.netloc}{hidden}"}
