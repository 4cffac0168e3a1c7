"""The documents as a site."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    """`mkdocs build --strict`: every link and anchor between pages leads somewhere; runbooks are all in the menu."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    menu = (REPOSITORY / "mkdocs.yml").read_text()
    for page in (REPOSITORY / "docs").rglob("*.md"):
        path = page.relative_to(REPOSITORY / "docs")
        assert (tmp_path / path.with_suffix("") / "index.html").exists() or path.name == "index.md"
        assert str(path) in menu or path.parts[0] != "runbooks", f"{path} is not in the menu of mkdocs.yml"
