"""A worker's own counters, read over HTTP."""

import httpx


def counter(url: str, name: str) -> float:
    """Sum of a counter or gauge of a worker over its labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)
