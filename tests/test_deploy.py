"""Dockerfile, compose and chart: linted, rendered, and checked against Kubernetes' own schemas."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.deploy_files import DEPLOY, alerting

CHART = DEPLOY / "helm" / "emberwatch"
BIN = Path(sys.executable).parent
KUBERNETES = ("1.27", "1.31", "1.35")
OPERATORS = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator, whose schemas Kubernetes does not have
NEEDED = {"store": {"url": "redis://:secret@redis:6379/0"}, "keys": {"existingSecret": "keys"}}


def test_the_dockerfile_is_clean() -> None:
    """By hadolint."""
    done = subprocess.run([BIN / "hadolint", "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_run_unprivileged_with_a_pinned_base() -> None:
    """Stage by stage: the last two are the targets, on a runtime stage that ends as another user and has a health check."""
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+) AS \S+$", text, re.MULTILINE))
    assert bases == {"python:${PYTHON}", "source", "runtime"}
    targets = re.findall(r"^FROM runtime AS (\S+)$", text, re.MULTILINE)
    assert targets == ["cuda", "cpu"], "the last is the default"
    runtime = text.split("AS runtime")[1].split("\nFROM")[0]
    assert "\nUSER 10001\n" in runtime
    assert "\nHEALTHCHECK " in runtime
    assert "mamba-ssm" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    for name in re.findall(r"\bEMBERWATCH_([A-Z_]+)=", text):
        assert name.lower() in Settings.model_fields


def compose() -> dict[str, Any]:
    """deploy/compose.yaml, merged."""
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_compose_publishes_on_loopback_only_and_mounts_what_is_there() -> None:
    """Images are pinned, the service's containers cannot write to their root, the store keeps what it has."""
    services = compose()["services"]
    assert set(services) == {"redis", "worker-1", "worker-2", "haproxy", "prometheus", "alertmanager", "grafana"}
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose()["volumes"], volume
    for worker in (services["worker-1"], services["worker-2"]):
        assert worker["read_only"]
        for variable in worker["environment"]:
            assert variable.removeprefix("EMBERWATCH_").lower() in Settings.model_fields
    assert services["redis"]["command"][1:3] == ["--appendonly", "yes"]
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())["services"]
    assert set(gpu) <= set(services)
    variables = set(re.findall(r"\$\{([A-Z_0-9]+)-", (DEPLOY / "haproxy" / "haproxy.cfg").read_text()))
    assert variables == set(services["haproxy"]["environment"])


def test_composes_prometheus_differs_from_the_other_in_addresses_only() -> None:
    """Or one of the two would rot."""
    plain, named = [(DEPLOY / "prometheus" / name).read_text() for name in ("prometheus.yml", "compose.yml")]
    for ours, theirs in (
        ('"127.0.0.1:8000"', '"worker-1:8000", "worker-2:8000"'),
        ("127.0.0.1:8404", "haproxy:8404"),
        ("127.0.0.1:9093", "alertmanager:9093"),
    ):
        assert ours in plain
        plain = plain.replace(ours, theirs)
    assert plain.split("global:")[1] == named.split("global:")[1]


def test_grafana_finds_source_and_dashboards_where_compose_puts_them() -> None:
    """The provider's folder is a mount, the source's address is a variable that compose sets."""
    grafana = compose()["services"]["grafana"]
    folders = {volume.split(":")[1] for volume in grafana["volumes"]}
    provisioning = DEPLOY / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "emberwatch.yaml").read_text())["providers"][0]
    assert provider["options"]["path"] in folders
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["uid"] == "prometheus"
    assert source["url"].strip("${}") in grafana["environment"]


@cache
def helm() -> str:
    """The program, or a skip that says how to get it."""
    found = shutil.which("helm", path=os.pathsep.join([str(BIN), os.environ.get("PATH", "")]))
    if found is None:
        message = "helm is not installed (python deploy/helm/install_helm.py)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def render(folder: Path, **values: Any) -> list[dict[str, Any]]:
    """The chart's objects with these values over those that are needed."""
    (folder / "values.yaml").write_text(yaml.safe_dump(NEEDED | values))
    command = [helm(), "template", "ew", str(CHART), "--namespace", "fleet", "--values", str(folder / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "on GPUs": {"gpu": {"enabled": True, "runtimeClassName": "nvidia"}},
    "with its own keys": {"keys": {"json": '{"keys": []}'}},
    "of one's own store": {"store": {"existingSecret": "redis"}, "settings": {"durability": "fsync", "tracing": True}},
    "fixed and open": {"autoscaling": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "restricted": {
        "networkPolicy": {
            "clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "store": {"port": 6380, "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
            "extraEgress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
        },
        "workers": {"podAnnotations": {"team": "fleet"}, "nodeSelector": {"zone": "a"}},
        "monitoring": {"labels": {"release": "prometheus"}},
        "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4318"}],
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_of_the_chart_is_kubernetes(variant: str, tmp_path: Path) -> None:
    """Strictly, by the schemas of an old, a recent and a new version."""
    objects = render(tmp_path, **VARIANTS[variant])
    for thing in objects:
        if thing["kind"] not in OPERATORS:
            for version in KUBERNETES:
                kubernetes_validate.validate(thing, version, strict=True)
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in objects]
    assert len(names) == len(set(names))


def test_workers_are_locked_up_probed_and_find_their_secrets(tmp_path: Path) -> None:
    """No root, no writable root file system, no password in plain sight; settings are ours."""
    objects = render(tmp_path)
    worker = one(objects, "Deployment", "ew-worker")["spec"]["template"]["spec"]
    (container,) = worker["containers"]
    assert worker["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    variables = {v["name"]: v for v in container["env"]}
    for name in variables:
        assert name.removeprefix("EMBERWATCH_").lower() in Settings.model_fields, name
    assert variables["EMBERWATCH_STORE"]["valueFrom"]["secretKeyRef"] == {"name": "ew-store", "key": "url"}
    plain = yaml.safe_dump([thing for thing in objects if thing["kind"] != "Secret"])
    assert "secret@redis" not in plain
    drain = float(variables["EMBERWATCH_DRAIN_S"]["value"])
    assert worker["terminationGracePeriodSeconds"] > drain + 30
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/etc/emberwatch/keys"] == "keys"


def test_gpus_are_asked_for_where_they_are_wanted(tmp_path: Path) -> None:
    """Resource, node selection, image and backend go together."""
    worker = one(render(tmp_path, **VARIANTS["on GPUs"]), "Deployment", "ew-worker")["spec"]["template"]["spec"]
    (container,) = worker["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["limits"]["memory"] == "3Gi"
    assert container["image"].endswith("-cuda")
    assert {"name": "EMBERWATCH_BACKEND", "value": "cuda"} in container["env"]
    assert worker["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_selectors_meet_their_pods(tmp_path: Path) -> None:
    """Services, disruption budgets, network policies and the monitor select labels that the templates carry."""
    objects = render(tmp_path)
    pods = [o["spec"]["template"]["metadata"]["labels"] for o in objects if o["kind"] == "Deployment"]

    def meets(selector: dict[str, str]) -> bool:
        return [selector.items() <= labels.items() for labels in pods].count(True) == 1

    for thing in objects:
        if thing["kind"] == "Service":
            assert meets(thing["spec"]["selector"]), thing["metadata"]["name"]
        if thing["kind"] == "PodDisruptionBudget":
            assert meets(thing["spec"]["selector"]["matchLabels"]), thing["metadata"]["name"]
        if thing["kind"] == "NetworkPolicy":
            assert meets(thing["spec"]["podSelector"]["matchLabels"]), thing["metadata"]["name"]
    monitor = one(objects, "ServiceMonitor", "ew-workers")["spec"]
    services = [o["metadata"]["labels"] for o in objects if o["kind"] == "Service"]
    chosen = [labels for labels in services if monitor["selector"]["matchLabels"].items() <= labels.items()]
    assert [labels[monitor["jobLabel"]] for labels in chosen] == ["emberwatch"], "the rules read job='emberwatch'"
    target = one(objects, "HorizontalPodAutoscaler", "ew-worker")["spec"]
    assert target["metrics"][0]["pods"]["metric"]["name"] == "emberwatch_queue_depth"
    assert one(objects, "Deployment", target["scaleTargetRef"]["name"])


def test_the_charts_rules_are_the_tested_ones(tmp_path: Path) -> None:
    """And link to where the documents are said to be."""
    base = "https://docs.example.org/emberwatch/"
    spec = one(render(tmp_path, monitoring={"runbookBase": base}), "PrometheusRule", "ew")["spec"]
    found = [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    assert [rule["alert"] for rule in found] == [rule["alert"] for rule in alerting()]
    assert all(rule["annotations"]["runbook_url"].startswith(f"{base}docs/runbooks/") for rule in found)


@pytest.mark.parametrize(("missing", "said"), [("store", "store.url"), ("keys", "emberwatch keys create")])
def test_the_chart_says_what_it_needs(missing: str, said: str, tmp_path: Path) -> None:
    """Instead of pods that refuse to start."""
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({k: v for k, v in NEEDED.items() if k != missing}))
    command = [helm(), "template", "ew", str(CHART), "--values", str(tmp_path / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_charts_proxy_is_valid(tmp_path: Path) -> None:
    """By HAProxy; the one keyword that Debian 12's is too old for is left out, and nothing else."""
    if shutil.which("haproxy") is None:
        message = "haproxy is not installed (Debian: apt-get install haproxy)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    text = one(render(tmp_path), "ConfigMap", "ew-proxy")["data"]["haproxy.cfg"]
    assert text.count(" hash-key addr") == 2
    (tmp_path / "haproxy.cfg").write_text(text.replace(" hash-key addr", ""))
    command = ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")]
    environment = {**os.environ, "WORKERS": "localhost"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
