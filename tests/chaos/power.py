"""A store whose power can be cut: what was written and not yet fsynced is gone, to the byte."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.processes import ValkeyProcess

SOURCE = Path(__file__).parent / "fsync_ledger.cpp"


class MortalStore(ValkeyProcess):
    """A Valkey that tells a ledger of every fsync. Its append-only file is never rewritten, so that it stays one file."""

    def __init__(self, folder: Path, library: Path, *options: str) -> None:
        self._ledger = folder / "fsync.ledger"
        super().__init__(
            folder,
            "--auto-aof-rewrite-percentage",
            "0",
            *options,
            environment={"LD_PRELOAD": str(library), "EMBERWATCH_FSYNC_LEDGER": str(self._ledger)},
        )

    @property
    def log(self) -> Path:
        """The append-only file."""
        (log,) = self.folder.glob("appendonlydir/*.incr.aof")
        return log

    def synced(self) -> int:
        """How many bytes of the append-only file an fsync has reached."""
        inode = self.log.stat().st_ino
        lines = (line.split() for line in self._ledger.read_text().splitlines()) if self._ledger.exists() else iter(())
        return max((int(size) for number, size in lines if int(number) == inode), default=0)

    def cut_power(self) -> int:
        """Kill it and take away what no fsync had reached; how many bytes that was."""
        self.kill()
        log, kept = self.log, self.synced()
        size = log.stat().st_size
        os.truncate(log, kept)
        return size - kept


def build_ledger(folder: Path) -> Path:
    """The library to preload. Raises CalledProcessError or FileNotFoundError without a compiler."""
    library = folder / "fsync_ledger.so"
    compiler = shutil.which("g++") or "g++"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library
