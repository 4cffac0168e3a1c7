"""Rules, runbooks and dashboards: they are tested, they belong together, and they name what exists."""

import json
import os
import re
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest

from model.checkpoint import SHIPPED, load_checkpoint
from model.drift import DriftMonitor, DriftReference
from service.edge.forwarder import ForwardMetrics
from service.observe.device_metrics import DeviceGauges, DeviceReading
from service.observe.metrics import Metrics
from tests.deploy_files import DASHBOARDS, DEPLOY, RUNBOOKS, alerting, panels, rules, series_of


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Names of all series that a service, one with an accelerator included, and a box can export."""
    metrics = Metrics()
    reference = DriftReference.load(SHIPPED, load_checkpoint().fingerprint())
    assert reference is not None
    metrics.watch_drift(DriftMonitor(reference))
    metrics.registry.register(DeviceGauges("cuda", lambda _: DeviceReading(1, 2, 0.5)))
    metrics.build.info({})
    metrics.model.info({})
    names = set()
    said = generate_latest(metrics.registry).decode() + generate_latest(ForwardMetrics().registry).decode()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", said, re.MULTILINE):
        names |= {f"{name}{suffix}" for suffix in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def run_promtool(*arguments: str) -> None:
    """Fails with promtool's own words."""
    if shutil.which("promtool") is None:
        message = "promtool is not installed (Debian: apt-get install prometheus)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_raise_what_they_should_and_nothing_of_a_healthy_service() -> None:
    """`promtool test rules`: each alert once, and a healthy service over two days."""
    run_promtool("test", "rules", str(DEPLOY / "prometheus" / "tests" / "emberwatch_test.yml"))


def test_the_rules_and_the_configuration_are_valid() -> None:
    """`promtool check config` reads the rules too."""
    run_promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_every_alert_has_a_test() -> None:
    """That raises it, and that keeps it quiet."""
    text = (DEPLOY / "prometheus" / "tests" / "emberwatch_test.yml").read_text()
    for rule in alerting():
        assert text.count(f"alertname: {rule['alert']}") == 2, rule["alert"]


def test_every_alert_links_to_its_runbook_and_every_runbook_has_its_alert() -> None:
    """The page begins with the rule's name and quotes its expression."""
    linked = {rule["annotations"]["runbook_url"]: rule for rule in alerting()}
    assert set(linked) == {f"docs/runbooks/{page.name}" for page in RUNBOOKS.glob("Emberwatch*.md")}
    for url, rule in linked.items():
        page = (RUNBOOKS / url.rpartition("/")[2]).read_text()
        assert page.startswith(f"# {rule['alert']}\n")
        assert rule["expr"] in page, f"{rule['alert']}: the page quotes another expression"
        assert "## Look\n" in page
        assert "## Do\n" in page


def test_every_rule_names_series_that_exist(exported: set[str]) -> None:
    """Of the service, or recorded by a rule before."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        assert series_of(rule["expr"]) <= exported | recorded, rule


def test_every_panel_names_series_that_exist(exported: set[str]) -> None:
    """And no two dashboards share an id."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for panel in panels():
        assert series_of(panel.expression) <= exported | recorded | {"emberwatch"}, panel
    boards = [json.loads(file.read_text()) for file in DASHBOARDS]
    assert {board["uid"] for board in boards} == {file.stem for file in DASHBOARDS}
    assert len(boards) == 3


def test_every_metric_of_the_design_is_exported(exported: set[str]) -> None:
    """The list of DESIGN.md, less what alerts and their delivery bring."""
    design = """samples_total step_duration_seconds_bucket batch_size_bucket queue_depth http_request_duration_seconds_bucket
        store_duration_seconds_bucket commit_conflicts_total event_lag_seconds_bucket vehicles_active vehicles_stale
        alert_transitions_total state_resets_total rehydrations_total slots_used slots_capacity risk_bucket input_drift
        build_info model_info"""
    assert {f"emberwatch_{name}" for name in design.split()} <= exported


def test_the_healthy_service_of_the_rules_test_is_not_empty() -> None:
    """Every series that an alert reads is among its input, or quiet would prove nothing."""
    text = (DEPLOY / "prometheus" / "tests" / "emberwatch_test.yml").read_text().split("name: a healthy service")[1]
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    for rule in alerting():
        for name in series_of(rule["expr"]):
            for series in series_of(recorded.get(name, name)):
                assert f"'{series}" in text, f"{rule['alert']}: {series}"
