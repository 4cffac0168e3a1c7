"""Cursors of lists: the place where a page ended, opaque to callers."""

import base64
import binascii

from service.errors import ServiceError


class InvalidCursor(ServiceError):
    """The cursor is not one that this list gave out."""

    status, kind = 422, "invalid-parameter"

    def __init__(self) -> None:
        super().__init__("cursor: is not one that this list gave out")


def encode_cursor(place: float, name: str) -> str:
    """Where a page ended: the number by which the list is sorted (int or float), and the name among equals."""
    return base64.urlsafe_b64encode(f"{place!r} {name}".encode()).decode()


def decode_cursor(cursor: str) -> tuple[str, str]:
    """The two parts of a cursor, the number as text.

    Raises:
        InvalidCursor: it has no such parts.
    """
    try:
        place, name = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ", 1)
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor from error
    return place, name
