"""A real Chromium for tests and screenshots, driven by Playwright; nothing of it is downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where it is."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser. Skips the test, aloud, where there is none."""
    path = chromium()
    if path is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium): the page is not tested")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        # As root, as in a container, it has no sandbox of its own; it sees nothing but our own pages.
        started = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield started
        finally:
            started.close()
