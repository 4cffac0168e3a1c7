"""What a running service says of its vehicles, page by page and one at a time, for commands that look at the whole fleet."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from service.client import Client, Refused

PAGE = 1_000
GONE = 404


def pages(client: Client, path: str, items: str) -> Iterator[dict[str, Any]]:
    """All items of a list that comes in pages. Raises ClientError."""
    cursor = ""
    while True:
        page = client.get(f"{path}?limit={PAGE}" + (f"&cursor={quote(cursor, safe='')}" if cursor else ""))
        yield from page[items]
        if page["next_cursor"] is None:
            return
        cursor = page["next_cursor"]


def trends(client: Client) -> Iterator[dict[str, Any]]:
    """The last 48 hours of each vehicle that is still there when it is asked for. Raises ClientError."""
    for vehicle in list(pages(client, "/v1/vehicles", "vehicles")):
        try:
            yield client.get(f"/v1/vehicles/{quote(vehicle['vehicle_id'], safe='')}/trend")
        except Refused as error:
            if error.status != GONE:
                raise


def alerts(client: Client) -> Iterator[dict[str, Any]]:
    """The last alert of each vehicle and rule. Raises ClientError."""
    yield from pages(client, "/v1/alerts", "alerts")
