"""What every report of the project has: where its figures come from, and its form as JSON."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kernels.bench_step import this_commit


def provenance(command: str, device: torch.device) -> dict[str, str]:
    """The first keys of every report: commit, date, device, command."""
    return {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "command": command,
    }


def write_json(data: dict[str, Any], file: Path) -> None:
    """One row a line, so that a changed figure is a changed line."""
    rows = ",\n".join("  " + json.dumps(row) for row in data["rows"])
    rest = json.dumps({key: value for key, value in data.items() if key != "rows"}, indent=1)
    file.write_text(f'{rest[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')
