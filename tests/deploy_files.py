"""What is in deploy/: rules and dashboards, as the tests read them."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "emberwatch.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RUNBOOKS = REPOSITORY / "docs" / "runbooks"


class Panel(NamedTuple):
    """One query of one panel."""

    dashboard: str
    title: str
    expression: str


def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerting() -> list[dict[str, Any]]:
    """Those that raise an alert."""
    return [rule for rule in rules() if "alert" in rule]


def panels() -> Iterator[Panel]:
    """Every query of every dashboard, Grafana's variables replaced."""
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
                yield Panel(board["title"], panel["title"], expression)


def series_of(expression: str) -> set[str]:
    """Names of the service's own series and of recording rules in an expression."""
    return set(re.findall(r"\bemberwatch[_:][a-z0-9_:]+", expression))
