"""docs/paths.md: each way from the README to a running thing has a test, and the README names what these tests run."""

import ast
import os
import re
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_every_path_has_a_test_that_exists() -> None:
    """By file and function."""
    named = re.findall(
        r"^\| .+ \| `(tests/\S+\.py)::(\w+)` \|$", (REPOSITORY / "docs" / "paths.md").read_text(), re.MULTILINE
    )
    assert len(named) >= 14
    for file, function in named:
        tree = ast.parse((REPOSITORY / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, function)


def test_make_test_runs_the_suite_in_its_own_environment(tmp_path: Path) -> None:
    """From nothing: an environment, the project in it with its pins, then pytest. Shown by make, not run: this is that run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "test", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    steps = ("-m venv", "pip install", "-m pytest")
    at = [done.stdout.index(step) for step in steps]
    assert at == sorted(at)
    assert "-c constraints.txt -e '.[dev]'" in done.stdout


def test_the_readme_begins_with_the_two_commands_and_leads_on() -> None:
    """Demo and tests first, then pictures, then the tutorial; every page that a newcomer needs is linked."""
    order = ["make demo ", "make test ", "docs/screenshots/incident.webp", "## Five minutes", "## From here"]
    at = [README.index(mark) for mark in order]
    assert at == sorted(at)
    for page in ("concepts", "operations", "training", "edge", "scale", "load", "api", "paths", "delivery"):
        assert f"(docs/{page}.md" in README, page
