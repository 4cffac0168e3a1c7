"""How `make test` shares the tests between two processes: `pytest -p tests.two_processes --numprocesses 2 --dist loadscope`.

Tests that start several programs at once (chaos, contract, e2e) wait more than they work: they go one after another in
one process, and the others file by file in the other.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

MANY_PROGRAMS = ("chaos", "contract", "e2e")


class Together(LoadScopeScheduling):  # type: ignore[misc]  # publishes no types
    """Which tests run in the same process, one after another."""

    def _split_scope(self, nodeid: str) -> str:
        """All that start many programs; else those of a file."""
        file = nodeid.split("::", maxsplit=1)[0]
        return "programs" if file.removeprefix("tests/").split("/")[0] in MANY_PROGRAMS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """Called by pytest-xdist."""
    return Together(config, log)
