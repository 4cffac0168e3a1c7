"""Options that several commands share."""

from typing import Annotated

import typer

ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="EMBERWATCH_API_KEY",
        show_envvar=True,
        help="API key, where the service asks for one. Prefer the environment: other users see a command's arguments.",
    ),
]
