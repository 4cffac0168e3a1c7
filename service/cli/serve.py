"""`emberwatch serve`: run the service."""

import signal
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import ValidationError

from model.checkpoint import CheckpointError
from model.runtime import BackendUnavailableError
from service.app import create_app
from service.cli.draining import run
from service.cli.output import print_json, refusing
from service.delivery.sinks_file import read_sinks, shown
from service.gate.connections import Connections, guarded
from service.observe.logs import configure_logs
from service.observe.metrics import Metrics
from service.settings import Settings, without_secrets

GRACE_S = 30  # for the requests in hand when asked to stop


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    store: Annotated[str | None, typer.Option(help="'embedded', or a redis:// or unix:// URL.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the embedded store.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of the model.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="File of API keys; without it loopback only.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, reference, cpu, cuda or cuda-bf16.")] = None,
    *,
    print_settings: Annotated[bool, typer.Option("--print-settings", help="Print every setting and exit.")] = False,
) -> None:
    """Run the service. Options override the environment (EMBERWATCH_*), which overrides the defaults."""
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "store": store,
        "data_dir": data_dir,
        "checkpoint": checkpoint,
        "backend": backend,
        "keys_file": keys_file,
    }
    with refusing(ValidationError, CheckpointError, BackendUnavailableError, ValueError):
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
        if print_settings:
            print_json(masked(settings))
            return
        configure_logs(settings.log_level, settings.log_format)
        app = create_app(settings)
    # uvicorn raises the signal that stopped it once more when it is done; a clean stop is exit code 0 all the same.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http=guarded(connections_of(settings, app.state.metrics)),
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=settings.keep_alive_s,
    )
    run(app, settings.drain_s, config)


def connections_of(settings: Settings, metrics: Metrics) -> Connections:
    """What connections are allowed."""
    return Connections(
        settings.max_connections, settings.head_timeout_s, settings.body_timeout_s, metrics.connections_closed
    )


def masked(settings: Settings) -> dict[str, Any]:
    """Settings as plain data without secrets."""
    sinks = () if settings.sinks_file is None else read_sinks(settings.sinks_file)
    shown_as = {"store": without_secrets(settings.store), "sinks": [shown(sink) for sink in sinks]}
    return settings.model_dump(mode="json") | shown_as
