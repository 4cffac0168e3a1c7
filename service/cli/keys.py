"""`emberwatch keys`: create, list and revoke API keys. A running service notices within a second."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from service.cli.output import ANSWER_IS_NO, console, print_json, refusing
from service.gate.keys import SCOPES, ApiKey, KeysFileError, edit_keys, new_key, read_keys

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

KeysFile = Annotated[
    Path,
    typer.Option("--file", envvar="EMBERWATCH_KEYS_FILE", help="The key file; the service's EMBERWATCH_KEYS_FILE."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    file: KeysFile,
    scope: Annotated[list[str], typer.Option(help=f"One of {', '.join(SCOPES)}; may be repeated.")],
    name: Annotated[str, typer.Option(help="Whose key it is.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, once: only its hash is stored."""
    with refusing(KeysFileError, OSError, ValueError):
        if unknown := set(scope) - set(SCOPES):
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {', '.join(sorted(unknown))}")
        key, text = new_key(name, tuple(s for s in SCOPES if s in scope))
        with edit_keys(file) as keys:
            keys[key.id] = key
    if as_json:
        print_json(shown(key) | {"key": text})
    else:
        console.print(f"key {key.id} of {name} ({', '.join(key.scopes)}); it is shown this once:", highlight=False)
        typer.echo(text)


@app.command("list")
def list_keys(file: KeysFile, *, as_json: AsJson = False) -> None:
    """List the keys: id, name, scopes, when they were created. Neither secrets nor hashes are shown."""
    with refusing(KeysFileError):
        keys = [shown(key) for key in read_keys(file).values()]
    if as_json:
        print_json({"keys": keys})
        return
    table = Table("id", "name", "scopes", "created")
    for key in keys:
        table.add_row(key["id"], key["name"], ", ".join(key["scopes"]), key["created"])
    console.print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="Id of the key, as `list` shows it.")], file: KeysFile) -> None:
    """Revoke a key. Exit code 1 if there is none of that id."""
    with refusing(KeysFileError, OSError), edit_keys(file) as keys:
        found = keys.pop(key_id, None)
    if found is None:
        console.print(f"there is no key {key_id} in {file}", highlight=False)
        raise typer.Exit(ANSWER_IS_NO)
    console.print(f"key {key_id} of {found.name} is revoked", highlight=False)


def shown(key: ApiKey) -> dict[str, Any]:
    """A key without its hash."""
    return {"id": key.id, "name": key.name, "scopes": list(key.scopes), "created": key.created}
