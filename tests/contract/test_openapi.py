"""The OpenAPI document is the truth: a generator reads it and sends whatever it allows, and what it forbids."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess

EXAMPLES = os.environ.get("EMBERWATCH_CONTRACT_EXAMPLES", "20")  # for each call and kind of data
SEED = os.environ.get("EMBERWATCH_CONTRACT_SEED", "1")
HERE = Path(__file__).parent
TIMEOUT_S = 240


def test_every_call_keeps_to_the_document(tmp_path: Path) -> None:
    """All checks and phases of Schemathesis: documented codes, types, headers and bodies, and what is forbidden is refused."""
    service = ServiceProcess(tmp_path).start()
    try:
        options = ["--checks", "all", "--mode", "all", "--phases", "examples,coverage,fuzzing,stateful"]
        options += ["--max-examples", EXAMPLES, "--seed", SEED, "--continue-on-failure", "--no-color"]
        program = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")]
        done = subprocess.run(
            [*program, "run", *options, f"{service.url}/openapi.json"],
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.contract.schemathesis_hooks",
                "PYTHONPATH": str(REPOSITORY),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No issues found" in done.stdout, done.stdout
    finally:
        service.stop_if_running()
