"""JSON and NDJSON as plain data.

NaN and the infinities, which JSON does not have but senders do, survive as values of their own type, so that whoever
reads the field can refuse it by name.
"""

import json
import re
from typing import Any

import orjson

from service.errors import UnreadableBody

NOT_JSON_NUMBER = re.compile(rb"NaN|Infinity|[0-9][eE]\+?[0-9]{3}|[0-9]{300}")
LONGEST_INTEGER = 20  # digits and sign; longer ones are numbers like any other


class NotFinite(str):
    """A number that is none, or too large for one, as it was sent."""

    __slots__ = ()


class Unparsed(str):
    """Why a line of NDJSON is not JSON."""

    __slots__ = ()


def parse_json(body: bytes | bytearray) -> Any:
    """The body as plain data; NaN, Infinity and 1e999 become NotFinite.

    Raises:
        UnreadableBody: it is not JSON; says where.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if NOT_JSON_NUMBER.search(body):
            return parse_with_not_finite(body)
        raise UnreadableBody(f"the body is not JSON: {error}") from error


def parse_with_not_finite(body: bytes | bytearray) -> Any:
    """As parse_json, by the standard library's slower parser."""
    try:
        return json.loads(
            bytes(body).decode("utf-8"), parse_constant=NotFinite, parse_float=finite, parse_int=exact_integer
        )
    except (ValueError, RecursionError) as error:
        raise UnreadableBody(f"the body is not JSON: {error}") from error


def finite(text: str) -> float | NotFinite:
    """A number, or NotFinite where a double cannot hold it."""
    value = float(text)
    return value if abs(value) != float("inf") else NotFinite(text)


def exact_integer(text: str) -> int | float | NotFinite:
    """An integer, or the nearest number where it is too long to be one of ours."""
    return int(text) if len(text) <= LONGEST_INTEGER else finite(text)


def parse_ndjson(body: bytes | bytearray, limit: int) -> list[Any]:
    """One value per line; blank lines do not count. A line that is not JSON becomes Unparsed.

    Stops after `limit` + 1 lines, so that a body of newlines and zeros cannot cost more than it may hold.
    """
    rows: list[Any] = []
    for line in bytes(body).split(b"\n"):
        if not line or line.isspace():
            continue
        if len(rows) > limit:
            break
        try:
            rows.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            rows.append(parse_line(line, str(error)))
    return rows


def parse_line(line: bytes, reason: str) -> Any:
    """A line that is not plain JSON."""
    try:
        return parse_json(line)
    except UnreadableBody:
        return Unparsed(reason)
