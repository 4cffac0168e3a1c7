"""Commands as they go over the wire.  Source: RESP, redis.io/docs/latest/develop/reference/protocol-spec."""

from collections.abc import Sequence
from typing import Any

from hiredis import pack_command

Command = tuple[Any, ...]

LARGE_BYTES = 65_536  # of an argument that is sent from where it lies


def packed(commands: Sequence[Command]) -> list[bytes]:
    """What is to be written for these commands, one after the other; a large value of SET is not copied."""
    parts: list[bytes] = []
    for command in commands:
        if command[0] == "SET" and isinstance(command[2], bytes) and len(command[2]) >= LARGE_BYTES:
            parts += _around(command, 2)
        else:
            parts.append(pack_command(command))
    return parts


def _around(command: Command, place: int) -> tuple[bytes, bytes, bytes]:
    """The command before its argument `place`, that argument, and what follows."""
    large = command[place]
    before = b"".join(map(_bulk, command[:place]))
    after = b"".join(map(_bulk, command[place + 1 :]))
    return b"*%d\r\n%b$%d\r\n" % (len(command), before, len(large)), large, b"\r\n" + after


def _bulk(argument: object) -> bytes:
    data = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
