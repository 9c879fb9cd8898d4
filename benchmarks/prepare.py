"""Getting the peers that no package of the distribution brings: drayage from PyPI, distribution 3 by Go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import Command, find

_PACKAGES = {
    "nginx": "nginx-light",
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "containerd": "containerd",
    "cc": "gcc libc6-dev",
}
_DISTRIBUTION = "github.com/distribution/distribution/v3/cmd/registry@latest"


def prepare(tools: Path) -> None:
    """Bring what can be brought into `tools`; say what is missing and how to get it."""
    tools.mkdir(parents=True, exist_ok=True)
    missing = [package for program, package in _PACKAGES.items() if not find(program)]
    if missing:
        print(f"missing; on Debian: apt-get install -y --no-install-recommends {' '.join(missing)}")
    if not (tools / "venv/bin/drayage").exists():
        _try("drayage", [sys.executable, "-m", "venv", tools / "venv"])
        _try("drayage", [tools / "venv/bin/python", "-m", "pip", "install", "--quiet", "drayage"])
    go = find("go")
    if not (tools / "registry").exists() and go is None:
        print("distribution 3 is left out: there is no Go on this machine")
    elif not (tools / "registry").exists() and go is not None:
        print("building distribution 3; this takes some minutes")
        _try("distribution 3", [go, "install", _DISTRIBUTION], GOBIN=str(tools.absolute()))


def _try(what: str, command: Command, **environment: str) -> None:
    try:
        subprocess.run([*map(str, command)], check=True, env=os.environ | environment)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{what} is left out: {error}")
