"""A server that says goodbye before it leaves: on SIGTERM it is not ready any more, and for a while serves all the same."""

import sys
import threading
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

logger = structlog.get_logger(__name__)

CANNOT_START = 3  # uvicorn's own exit code for it


class DrainingServer(uvicorn.Server):
    """Stops `drain_s` seconds after it is asked to, or at once when asked again.

    Meanwhile `app.state.draining` is true: `/readyz` answers 404 (docs/adr/0012), so that the load balancer sends new
    requests elsewhere before a connection could be refused.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._state, self._drain_s = app.state, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain, any other stops."""
        if self._state.draining or not self._drain_s or not self.started:
            super().handle_exit(sig, frame)
            return
        self._state.draining = True
        logger.info("draining: not ready any more, still serving", seconds=self._drain_s)
        timer = threading.Timer(self._drain_s, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def run(app: FastAPI, drain_s: float, config: uvicorn.Config) -> None:
    """Serve until stopped; exits with CANNOT_START if it never served."""
    server = DrainingServer(config, app, drain_s)
    server.run()
    if not server.started:
        sys.exit(CANNOT_START)
