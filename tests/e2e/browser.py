"""A real Chromium for tests and screenshots, driven by Playwright; nothing of it is downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 60_000  # of a busy machine


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


class Tab:
    """A tab at the page, which fails the test if it says an error or asks anybody but the service."""

    def __init__(self, chrome: Any, url: str, **options: Any) -> None:
        self._context = chrome.new_context(**options)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self._url = url
        self.page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self._context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def __enter__(self) -> Any:
        self.page.goto(f"{self._url}/dashboard/")
        return self.page

    def __exit__(self, *_: object) -> None:
        self._context.close()
        assert not self.errors
        assert self.asked
        assert [url for url in self.asked if not url.startswith((self._url, "data:"))] == []


def tab(chrome: Any, url: str, **options: Any) -> Tab:
    """A context and a page in it."""
    return Tab(chrome, url, **options)
