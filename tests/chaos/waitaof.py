"""Is what the store calls fsynced really fsynced? Each answer of WAITAOF against the ledger of fsyncs.

`python -m tests.chaos.waitaof everysec` counts the answers that came too early.
"""

import argparse
import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from tests.chaos.power import MortalStore, build_ledger

N_CLIENTS = 8
PAUSE_S = 0.02
WAIT_MS = 3_000
WRITE = "redis.call('APPEND', KEYS[1], ARGV[1]) return 1"


def early_answers(store: MortalStore, seconds: float) -> tuple[int, int]:
    """Write from several clients, each waiting for the disk; how many answers there were, and how many came too early.

    Too early: the store said that a write was on disk, and no fsync that covers it had ended. The store is killed.
    """
    answered: list[tuple[bytes, int]] = []
    end = time.monotonic() + seconds

    def write(number: int) -> None:
        client = redis.Redis.from_url(store.url)
        for i in itertools.count():
            if time.monotonic() > end:
                break
            mark = f"<{number}.{i}>"
            pipe = client.pipeline(transaction=False).eval(WRITE, 1, f"key-{number}", mark)
            _, (on_disk, _) = pipe.execute_command("WAITAOF", 1, 0, WAIT_MS).execute()
            if on_disk:
                answered.append((mark.encode(), store.synced()))
            time.sleep(PAUSE_S)
        client.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(N_CLIENTS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    store.kill()
    log = store.log.read_bytes()
    return len(answered), sum(not 0 <= log.find(mark) < synced for mark, synced in answered)


def main() -> None:
    """Count on a fresh store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("appendfsync", choices=["always", "everysec"])
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = build_ledger(Path(folder))
        store = MortalStore(Path(folder) / "store", library, "--appendfsync", asked.appendfsync).start()
        answers, early = early_answers(store, asked.seconds)
    sys.stdout.write(f"appendfsync {asked.appendfsync}: {answers} answers, {early} too early\n")


if __name__ == "__main__":
    main()
