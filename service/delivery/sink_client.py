"""One sink over HTTP: sign, post, and say what became of it. Certificates are checked, redirects refused, answers bounded."""

import asyncio
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx
from standardwebhooks import Webhook

from service.delivery.notice import Notice, Record
from service.delivery.payloads import Body, body_of, repeats
from service.delivery.sinks_file import AlertmanagerSink, AnySink, PagerDutySink, SignedSink

MOST_OF_AN_ANSWER = 65_536  # bytes; what comes after that is not read
QUOTED = 200  # bytes of it in a reason
NEVER_AGAIN = frozenset({400, 410, 413, 415, 422})  # it has read this very event and will not have it
ALERTS_PATH = "/api/v2/alerts"
LONGEST_WAIT_S = 3_600.0  # that a Retry-After is believed


class Result(NamedTuple):
    """What became of one attempt: `delivered`, `refused` (never try again) or `failed` (do)."""

    word: str
    reason: str = ""
    retry_after_s: float = 0.0


class SinkClient:
    """Connections to one sink."""

    def __init__(self, sink: AnySink) -> None:
        self._sink = sink
        self._url = sink.url.rstrip("/")
        if isinstance(sink, AlertmanagerSink) and not self._url.endswith(ALERTS_PATH):
            self._url += ALERTS_PATH
        signed = sink.secrets if isinstance(sink, SignedSink) else ()
        self._signers = [Webhook(secret.value.get_secret_value()) for secret in signed]
        self._routing_key = sink.routing_key.value.get_secret_value() if isinstance(sink, PagerDutySink) else ""
        verify: ssl.SSLContext | bool = True
        if sink.ca_file is not None:
            verify = ssl.create_default_context(cafile=str(sink.ca_file))
        self._http = httpx.AsyncClient(
            verify=verify,
            follow_redirects=False,
            timeout=sink.timeout_s,
            headers={
                "User-Agent": "emberwatch",
                **{name: secret.value.get_secret_value() for name, secret in sink.headers.items()},
            },
            limits=httpx.Limits(max_connections=sink.concurrency + 1, max_keepalive_connections=sink.concurrency),
        )

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def tell(self, notice: Notice) -> Result:
        """One attempt to deliver a notice."""
        body = body_of(self._sink, notice, now_ms(), self._routing_key)
        return await self._post(body, notice.event_id)

    async def repeat(self, records: list[Record]) -> Result:
        """Open alerts once more, to an Alertmanager."""
        if not isinstance(self._sink, AlertmanagerSink):
            raise TypeError(f"{self._sink.kind} needs no repeats")
        return await self._post(repeats(self._sink, records, now_ms()), None)

    async def _post(self, body: Body, event_id: str | None) -> Result:
        content, content_type = body
        headers = {"Content-Type": content_type}
        if event_id is not None:
            headers |= self.signed(event_id, content)
        try:
            async with (
                asyncio.timeout(self._sink.timeout_s),  # httpx's own is for each read, and some send a byte at a time
                self._http.stream("POST", self._url, content=content, headers=headers) as response,
            ):
                answer = await beginning(response)
        except TimeoutError:
            return Result("failed", f"no answer within {self._sink.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return Result("failed", f"{type(error).__name__}: {error}")
        return judged(response, answer)

    def signed(self, event_id: str, content: bytes) -> dict[str, str]:
        """The headers of Standard Webhooks; unsigned where there is no secret."""
        now = datetime.now(UTC)
        event_id = event_id.replace(".", "~")  # in what is signed the full stop separates; no id has a tilde
        headers = {"webhook-id": event_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signers:
            signatures = (signer.sign(event_id, now, content.decode()) for signer in self._signers)
            headers["webhook-signature"] = " ".join(signatures)
        return headers


async def beginning(response: httpx.Response) -> bytes:
    """The answer as far as it is read."""
    answer = b""
    async for chunk in response.aiter_raw():
        answer += chunk[: MOST_OF_AN_ANSWER - len(answer)]
        if len(answer) >= MOST_OF_AN_ANSWER:
            break
    return answer


def judged(response: httpx.Response, answer: bytes) -> Result:
    """What a status means."""
    code = response.status_code
    if response.is_success:
        return Result("delivered")
    if response.is_redirect:
        return Result("failed", f"{code}: redirects are not followed; the sink's url must be the final one")
    reason = f"{code}: {answer[:QUOTED].decode(errors='replace')}".rstrip(": ")
    if code in NEVER_AGAIN:
        return Result("refused", reason)
    return Result("failed", reason, retry_after(response.headers.get("Retry-After")))


def retry_after(text: str | None) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3); 0 where there is none to read."""
    if text is None:
        return 0.0
    try:
        seconds = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def now_ms() -> int:
    """Our clock."""
    return time.time_ns() // 1_000_000
