"""Real receivers of webhooks, on a real port, that note what they get and answer as they are told."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Got(NamedTuple):
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """The event's id, by its header."""
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """The body, once the signature is found good. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, dict(self.headers))


class Answer(NamedTuple):
    """What a receiver says."""

    status: int = 204
    headers: Mapping[str, str] = {}
    body: bytes = b""


@dataclass
class Receiver:
    """A running receiver; `answer` may be exchanged at any time, and is called once the request is noted."""

    port: int = 0
    got: list[Got] = field(default_factory=list)
    answer: Callable[[Got], Answer] = lambda _: Answer()

    @property
    def url(self) -> str:
        """Of the receiver."""
        return f"http://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        """Event ids in the order in which they came."""
        return [got.id for got in list(self.got)]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver that takes everything, until the end of the body."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            got = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body, time.time())
            receiver.got.append(got)
            answer = receiver.answer(got)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:  # a sender that hung up is no news
            pass

    server = Server(("127.0.0.1", port), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
