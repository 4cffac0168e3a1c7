"""What is left of an erased vehicle in the stream of alert changes, found and deleted page by page."""

import json
from typing import Any

from service.redis_link import RedisLink

PAGE = 1_000


async def forget_transitions(link: RedisLink, stream: str, vehicle_id: str) -> int:
    """Delete every entry of the stream that is about the vehicle; how many there were."""
    start, forgotten = "-", 0
    while True:
        page = (await link.pipeline([("XRANGE", stream, start, "+", "COUNT", PAGE)]))[0]
        about = [entry for entry, fields in page if vehicle_of(fields) == vehicle_id]
        if about:
            forgotten += (await link.pipeline([("XDEL", stream, *about)], durable=True))[0]
        if len(page) < PAGE:
            return forgotten
        start = b"(" + page[-1][0]


def vehicle_of(fields: Any) -> str | None:
    """Whose change an entry tells of; fields as a mapping or as a flat list, by the protocol in use."""
    pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    text = pairs.get(b"alert")
    return None if text is None else json.loads(text)["vehicle_id"]
