"""Commands as bytes."""

from hiredis import pack_command

from service.store.redis_wire import LARGE_BYTES, Command, packed


def test_a_large_value_is_sent_from_where_it_lies_and_the_bytes_are_the_same() -> None:
    """Joined, the parts are what hiredis would have packed; the large value itself is one of them, not a copy."""
    blob = bytes(range(256)) * (LARGE_BYTES // 256)
    commands: list[Command] = [
        ("GET", b"a"),
        ("SET", b"{ew:1}:snap", blob, "EX", 600),
        ("SET", "k\u00e9y", b"small", "NX"),
        ("PING",),
    ]
    parts = packed(commands)
    assert b"".join(parts) == b"".join([pack_command(command) for command in commands])
    assert any(part is blob for part in parts)
