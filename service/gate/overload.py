"""What is in hand at once, bounded: bytes of bodies, and requests being worked on. Above that 429, before collapse.

Probes and metrics are never refused: an operator must see an overloaded service.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TooMuchInFlight, problem_of

ALWAYS_ANSWERED = frozenset({"/livez", "/readyz", "/metrics"})
BODILESS = frozenset({"GET", "HEAD"})


class Budget:
    """Bytes and requests in hand, of all requests together."""

    def __init__(self, max_bytes: int, max_requests: int) -> None:
        self._max_bytes = max_bytes
        self._max_requests = max_requests
        self.bytes = 0
        self.requests = 0

    def add_bytes(self, n: int) -> None:
        """More of some body.

        Raises:
            TooMuchInFlight: it does not fit beside the others.
        """
        if self.bytes + n > self._max_bytes:
            raise TooMuchInFlight(f"{self.bytes} of {self._max_bytes} bytes of requests are in hand; send again later")
        self.bytes += n

    def add_request(self) -> None:
        """A request whose body is here.

        Raises:
            TooMuchInFlight: so many are being worked on already.
        """
        if self.requests >= self._max_requests:
            raise TooMuchInFlight(f"{self.requests} requests are in hand; send again later")
        self.requests += 1


class Share:
    """What one request has of the budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0
        self._working = False

    def add_bytes(self, n: int) -> None:
        """More of the body, as it came or unpacked. Raises TooMuchInFlight."""
        self._budget.add_bytes(n)
        self._bytes += n

    def work(self) -> None:
        """The body is here. Raises TooMuchInFlight."""
        if not self._working:
            self._budget.add_request()
            self._working = True

    def give_back(self) -> None:
        """The request is over."""
        self._budget.bytes -= self._bytes
        self._budget.requests -= self._working
        self._bytes, self._working = 0, False


class InFlight:
    """Keeps the budget: what arrives is counted as it is received, and given back when the request is over.

    The share of a request is `scope["share"]`, for routes that make more of a body than came in.
    """

    def __init__(self, app: ASGIApp, budget: Budget) -> None:
        self._app = app
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while there is room; where there is none, `receive` raises TooMuchInFlight."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        share = scope["share"] = Share(self._budget)
        try:
            if scope["method"] in BODILESS:
                share.work()
        except TooMuchInFlight as error:
            await problem_of(error)(scope, receive, send)
            return
        try:
            await self._app(scope, counted(receive, share), send)
        finally:
            share.give_back()


def counted(receive: Receive, share: Share) -> Receive:
    """`receive` that takes what it receives out of the budget."""

    async def receive_counted() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            share.add_bytes(len(message.get("body", b"")))
            if not message.get("more_body", False):
                share.work()
        return message

    return receive_counted
