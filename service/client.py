"""A client of the HTTP API, as the command line and the demo use it: whole recordings in, verdicts counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any, Self
from urllib.parse import quote

import httpx

from model.channels import SIGNALS
from model.recordings import Recording

RETRYABLE = frozenset({"deferred", "overloaded"})
RETRY_DELAYS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0)


class ClientError(RuntimeError):
    """The service refused a whole request, or could not be reached for as long as we tried."""


@dataclass(slots=True)
class Tally:
    """What became of the samples that were sent."""

    statuses: Counter[str] = field(default_factory=Counter)
    refusals: list[dict[str, Any]] = field(default_factory=list)  # the first few that were not accepted
    highest_risk: float = 0.0
    retries: int = 0

    def add(self, seqs: Sequence[int], items: Sequence[dict[str, Any]]) -> None:
        """Count the answers to samples of these numbers."""
        for seq, item in zip(seqs, items, strict=True):
            self.statuses[item["status"]] += 1
            self.highest_risk = max(self.highest_risk, item.get("risk") or 0.0)
            if item["status"] not in {"applied", "duplicate"} and len(self.refusals) < 10:
                self.refusals.append({"seq": seq, **item})


class Client:
    """One connection to a running service; use as a context manager.

    `key`: API key, where the service asks for one.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 60.0) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """JSON of a GET. Raises ClientError with the service's own words."""
        return self._request("GET", path).json()

    def post(self, path: str, data: Any = None) -> Any:
        """JSON of a POST. Raises ClientError."""
        return self._request("POST", path, data).json()

    def post_content(self, path: str, data: bytes, headers: dict[str, str]) -> Any:
        """JSON of a POST of bytes. Raises ClientError."""
        return self._request("POST", path, content=data, headers=headers).json()

    def content(self, path: str) -> bytes:
        """Bytes of a GET. Raises ClientError."""
        return self._request("GET", path).content

    def put(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        """Bytes by PUT. Raises ClientError."""
        self._request("PUT", path, content=data, headers=headers)

    def send(self, vehicle_id: str, samples: list[dict[str, Any]], tally: Tally) -> None:
        """Send one array and count its answers; what is retryable is sent again, in order.

        Raises:
            ClientError: the service refused the request, or did not recover while we retried.
        """
        todo = samples
        for delay in (*RETRY_DELAYS_S, None):
            try:
                items = self._request("POST", f"/v1/vehicles/{quote(vehicle_id, safe='')}/telemetry", todo).json()[
                    "items"
                ]
            except Unavailable as error:
                problem: Exception = error
            else:
                done = next((i for i, item in enumerate(items) if item["status"] in RETRYABLE), len(items))
                tally.add([sample["seq"] for sample in todo[:done]], items[:done])
                todo = todo[done:]
                if not todo:
                    return
                problem = ClientError(items[done].get("reason", "deferred"))
            if delay is None:
                raise ClientError(f"gave up after {len(RETRY_DELAYS_S)} retries: {problem}")
            tally.retries += 1
            sleep(delay)

    def _request(self, method: str, path: str, data: Any = None, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=data, **options)
        except httpx.TransportError as error:
            raise Unavailable(f"no answer from {self._http.base_url}: {error}") from error
        if response.status_code in {429, 503}:
            raise Unavailable(problem_detail(response))
        if response.is_error:
            reason = f"{method} {path}: {response.status_code}: {problem_detail(response)}"
            raise Refused(reason, response.status_code)
        return response


class Refused(ClientError):
    """The service says no; `status` is that of its answer."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Unavailable(ClientError):
    """The service cannot be reached or asks to be tried again later."""


def problem_detail(response: httpx.Response) -> str:
    """The detail of a problem document, or whatever the response says."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def wire_samples(recording: Recording) -> Iterator[dict[str, Any]]:
    """A recording's rows as they go over the wire; the row number is the seq."""
    for seq, (ts_ms, row) in enumerate(zip(recording.ts_ms.tolist(), recording.signals.tolist(), strict=True)):
        signals = {name: value for name, value in zip(SIGNALS, row, strict=True) if value == value}  # noqa: PLR0124
        yield {"ts": ts_ms, "seq": seq, "signals": signals}
