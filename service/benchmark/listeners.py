"""Many listeners to the stream of alerts, in a process of their own: `python -m service.benchmark.listeners PORT N`.

Says `ready` when all have joined; at the end of its input it says how many events each has heard at least and at most.
"""

import selectors
import socket
import sys
import time

REQUEST = b"GET /v1/alerts/stream HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
MARK = b"event: alert"
TIMEOUT_S = 60.0
CHUNK = 65_536


def connect(port: int, n: int) -> dict[socket.socket, list[int]]:
    """Open `n` streams; of each, the events heard so far. Raises OSError."""
    streams = {}
    for _ in range(n):
        stream = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        stream.sendall(REQUEST)
        streams[stream] = [0]
    for stream in streams:
        if not stream.recv(CHUNK).startswith(b"HTTP/1.1 200"):
            raise OSError("a listener was refused")
        stream.setblocking(False)
    return streams


def listen(streams: dict[socket.socket, list[int]]) -> int:
    """Read until standard input ends; how many streams the service ended."""
    selector, ended = selectors.DefaultSelector(), 0
    for stream in streams:
        selector.register(stream, selectors.EVENT_READ, stream)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            stream = key.data
            if stream is None:
                return ended
            data = stream.recv(CHUNK)
            streams[stream][0] += data.count(MARK)
            if not data:
                ended += 1
                selector.unregister(stream)
        time.sleep(0.02)  # not a wake-up for each stream: the core is the client's too


def main() -> None:
    """Run."""
    streams = connect(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ended = listen(streams)
    heard = [events for (events,) in streams.values()]
    sys.stdout.write(f"{min(heard, default=0)} {max(heard, default=0)} {ended}\n")


if __name__ == "__main__":
    main()
