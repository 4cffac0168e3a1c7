"""`emberwatch forward`: keep samples on this box's disk and send them on when there is a network."""

import signal
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from service.cli.options import ApiKeyOption
from service.cli.output import refusing
from service.edge.box import create_box
from service.edge.forwarder import LONGEST_WAIT_S
from service.observe.logs import configure_logs
from service.settings import is_loopback


def forward(
    to: Annotated[list[str], typer.Option(help="Base URL of a service; repeated, each gets everything.")],
    spool: Annotated[Path, typer.Option(help="Folder of what is not sent yet.")] = Path(".emberwatch/spool"),
    max_bytes: Annotated[int, typer.Option(min=8_388_608, help="Most that it may hold.")] = 2_000_000_000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8700,
    longest_wait_s: Annotated[float, typer.Option(min=0.1, help="Between tries without a network.")] = LONGEST_WAIT_S,
    key: ApiKeyOption = None,
    *,
    allow_open_network: Annotated[
        bool, typer.Option(help="Listen on other than loopback; it asks for no key.")
    ] = False,
) -> None:
    """Take samples where there may be no network; answer 202 when they are on the disk; send them on in order.

    The calls are the service's own: POST /v1/vehicles/ID/telemetry and POST /v1/telemetry. When the spool is full the answer is
    429, and the sender has to keep the sample. Nothing is dropped.
    """
    with refusing(ValueError, OSError):
        if not is_loopback(host) and not allow_open_network:
            raise ValueError(f"host {host} is not loopback: anybody could write; --allow-open-network if that is meant")
        app = create_box(spool, to, max_bytes, key, longest_wait_s)
    configure_logs("info", "json")
    # uvicorn raises the signal that stopped it once more when it is done; a clean stop is exit code 0 all the same.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(app, host=host, port=port, log_config=None, access_log=False, ws="none")
