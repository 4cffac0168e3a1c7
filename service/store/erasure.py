"""What is left of an erased vehicle in the stream of alert changes and in what could not be delivered, found and deleted."""

import json
from typing import Any

from service.store.redis_link import RedisLink

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


async def forget_held(link: RedisLink, held: str, vehicle_id: str) -> int:
    """Delete what is held back of notices about the vehicle; how many there were."""
    (reply,) = await link.pipeline([("HGETALL", held)])
    items = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    about = [field for field, value in items.items() if is_about(field, value, vehicle_id)]
    return (await link.pipeline([("HDEL", held, *about)], durable=True))[0] if about else 0


def is_about(field: bytes, value: bytes, vehicle_id: str) -> bool:
    """Whether something held back is about the vehicle: a silence's mark names it, a letter contains its alert."""
    kind, _, rest = field.decode().split("|", 2)
    if kind == "again":
        return bool(json.loads(json.loads(value)["alert"])["vehicle_id"] == vehicle_id)
    return rest.split("|", 1)[0] == vehicle_id


def vehicle_of(fields: Any) -> str | None:
    """Whose change an entry tells of; fields as a mapping or as a flat list, by the protocol in use."""
    pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        return str(json.loads(pairs[b"alert"])["vehicle_id"])
    except (KeyError, TypeError, ValueError):
        return None  # not ours: nothing of a vehicle is written in another form
