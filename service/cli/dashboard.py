"""`emberwatch dashboard`: the page as a process of its own, beside a service that runs elsewhere."""

from typing import Annotated

import httpx
import typer
import uvicorn

from service.cli.output import console, refusing
from service.client import ClientError
from service.dashboard.proxy import create_proxy
from service.gate.access import PAGE
from service.settings import is_loopback


def dashboard(
    service: Annotated[str, typer.Option(help="URL of the service.")] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8050,
    *,
    allow_open_network: Annotated[
        bool, typer.Option("--allow-open-network", help="Listen beyond loopback although the service asks for no keys.")
    ] = False,
) -> None:
    """Serve the page and pass its calls on to a service. It holds no key: each reader signs in with their own."""
    with refusing(ClientError):
        if not is_loopback(host) and not allow_open_network and not asks_for_keys(service):
            raise ClientError(
                f"host {host} is not loopback and the service at {service} asks for no keys: anybody could read, and silence "
                "alerts. Give the service keys, or pass --allow-open-network"
            )
    console.print(f"the page is at http://{host}:{port}{PAGE}/ and asks {service}", highlight=False)
    uvicorn.run(create_proxy(service), host=host, port=port, log_level="warning", access_log=False, ws="none")


def asks_for_keys(service: str) -> bool:
    """Whether the service refuses a call without a key.

    Raises:
        ClientError: it does not answer.
    """
    try:
        return httpx.get(f"{service}/v1/model").status_code == httpx.codes.UNAUTHORIZED
    except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
        raise ClientError(f"the service at {service} does not answer: {error}") from error
