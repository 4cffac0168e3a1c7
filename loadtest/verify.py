"""Was anything lost? Every van's count and last number, and some vans' states beside the offline scan."""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from loadtest.vans import COLUMNS, LoadError, Van, signals, ts_of


def check_counts(url: str, vans: Sequence[Van]) -> None:
    """The service has exactly the samples of each van that were acknowledged, and these are all that were made.

    Raises LoadError.
    """
    behind = [van for van in vans if van.acknowledged < van.made]
    if behind:
        raise LoadError(f"{len(behind)} vans were not answered, such as {behind[0]}")
    held, wanted = listed(url), [van for van in vans if van.made]
    wrong = [van for van in wanted if held.get(van.name) != (van.made, van.made - 1)]
    if wrong:
        found = held.get(wrong[0].name)
        raise LoadError(f"{len(wrong)} of {len(wanted)} vans are not as sent: {wrong[0]}, the service has {found}")


def listed(url: str) -> dict[str, tuple[int, int]]:
    """Samples and last seq of every vehicle that the service lists."""
    found: dict[str, tuple[int, int]] = {}
    with httpx.Client(base_url=url, timeout=60.0) as http:
        cursor: str | None = None
        while True:
            query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
            page = http.get("/v1/vehicles", params=query).raise_for_status().json()
            found |= {v["vehicle_id"]: (v["samples"], v["seq"]) for v in page["vehicles"]}
            cursor = page.get("next_cursor")
            if not cursor:
                return found


def check_states(url: str, vans: Sequence[Van]) -> None:
    """These vans' states are those of the float64 scan over what they sent (`emberwatch state verify`). Raises LoadError."""
    with tempfile.TemporaryDirectory() as folder:
        for van in vans:
            file = Path(folder) / f"{van.name}.csv"
            with file.open("w", newline="") as out:
                rows = csv.writer(out)
                rows.writerow(["ts", *COLUMNS])
                rows.writerows([ts_of(i), *signals(van.number, i).values()] for i in range(van.made))
            command = [sys.executable, "-m", "service.cli", "state", "verify", van.name, str(file), "--format", "csv"]
            done = subprocess.run([*command, "--url", url, "--json"], capture_output=True, text=True, check=False)
            if done.returncode or json.loads(done.stdout)["samples"] != van.made:
                raise LoadError(f"the state of {van.name}: {done.stdout}{done.stderr}")


def some_of(vans: Sequence[Van], roles: Sequence[str], n: int) -> list[Van]:
    """At least one van of each role, `n` in all if there are so many, evenly from the fleet; none for n = 0."""
    if n <= 0:
        return []
    chosen = {role: next(i for i, r in enumerate(roles) if r == role and vans[i].made) for role in dict.fromkeys(roles)}
    indices = list(chosen.values())
    step = max(1, len(vans) // max(1, n))
    indices += [i for i in range(step // 2, len(vans), step) if i not in indices and vans[i].made]
    return [vans[i] for i in indices[: max(n, len(chosen))]]
