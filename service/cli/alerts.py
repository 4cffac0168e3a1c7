"""`emberwatch alerts`: what could not be delivered, and once more."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from redis.exceptions import RedisError
from rich.table import Table

from service.cli.output import ANSWER_IS_NO, console, print_json, refusing
from service.delivery.outbox import Outbox
from service.settings import Settings
from service.store.embedded_store import socket_of

app = typer.Typer(help="Notices of alerts that no sink would take.", no_args_is_help=True)

T = TypeVar("T")
StoreUrl = Annotated[str | None, typer.Option("--store", help="redis:// or unix:// URL [EMBERWATCH_STORE].")]
SinkName = Annotated[str | None, typer.Option("--sink", help="Only of this sink.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
REFUSED = (RedisError, OSError, TimeoutError, ValueError)


@app.command("dead-letters")
def dead_letters(store: StoreUrl = None, sink: SinkName = None, *, as_json: AsJson = False) -> None:
    """List notices that a sink refused or that were tried for too long, the oldest first, with the reason."""
    with refusing(*REFUSED):
        letters = asyncio.run(with_outbox(store, lambda outbox: letters_of(outbox, sink)))
    if as_json:
        print_json({"dead_letters": letters})
        return
    table = Table("id", "sink", "died", "vehicle", "transition", "tried", "reason")
    for letter in letters:
        died = datetime.fromtimestamp(letter["died_ms"] / 1000.0, UTC)
        table.add_row(
            letter["id"], letter["sink"], f"{died:%d %b %H:%M:%S}", letter["alert"]["vehicle_id"], letter["transition"],
            str(letter["attempts"]), letter["reason"],
        )  # fmt: skip
    console.print(table)


@app.command()
def redeliver(
    letters: Annotated[list[str] | None, typer.Argument(help="Ids, as `dead-letters` shows them [all].")] = None,
    store: StoreUrl = None,
    sink: SinkName = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Hand dead letters back to the workers, which deliver them with the event ids they had.

    A sink that keeps incidents (alertmanager, pagerduty) is not told again of what is over by now. Exit code 1 if a letter
    named is not there.
    """

    async def work(outbox: Outbox) -> list[tuple[str, bool]]:
        there = [letter["id"] for letter in await letters_of(outbox, sink)]
        wanted = letters or there
        known = [letter for letter in wanted if letter in set(there)]
        done = dict(zip(known, await outbox.redeliver(known), strict=True)) if known else {}
        return [(letter, done.get(letter, False)) for letter in wanted]

    with refusing(*REFUSED):
        outcome = asyncio.run(with_outbox(store, work))
    handed, unknown = [name for name, there in outcome if there], [name for name, there in outcome if not there]
    if as_json:
        print_json({"redelivering": handed, "unknown": unknown})
    else:
        console.print(f"{len(handed)} handed back for delivery", highlight=False)
        for name in unknown:
            console.print(f"there is no dead letter {name}", highlight=False, markup=False)
    if unknown:
        raise typer.Exit(ANSWER_IS_NO)


async def letters_of(outbox: Outbox, sink: str | None) -> list[dict[str, Any]]:
    """Dead letters of one sink, or of all."""
    return [letter for letter in await outbox.dead_letters() if sink in {None, letter["sink"]}]


async def with_outbox(url: str | None, work: Callable[[Outbox], Awaitable[T]]) -> T:
    """Do something with the outboxes of a store.

    Raises:
        ValueError: there is no store to look at, or it is of another number of partitions.
        RedisError, OSError, TimeoutError.
    """
    settings = Settings()
    url = url or settings.store
    if url == "embedded":
        url = socket_of(settings.data_dir)
    outbox = Outbox(url, settings.partitions, settings.store_timeout_s)
    try:
        marked = await outbox.marked_partitions()
        if marked is None:
            raise ValueError("the store has never been used by a service")
        if marked != settings.partitions:
            raise ValueError(f"this data set has {marked} partitions; set EMBERWATCH_PARTITIONS={marked}")
        return await work(outbox)
    finally:
        await outbox.close()
