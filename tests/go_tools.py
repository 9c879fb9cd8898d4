"""The artifact tools that tests drive and no Debian suite of our age has: `python3 tests/go_tools.py` builds them.

Rule 1: each is pinned here, to one version, and comes through the machine's own Go module proxy and checksum database.
Rule 2: they lie outside the repository, in ${IARPROXY_TOOLS} or the user's cache, one folder for each version; what is
        there already is not built again.
Rule 3: without Go, or with one that is too old, nothing is built and the reason is printed: tests skip what is missing.
        With Go a tool that cannot be built is an error.

The standard library only: it runs before the environment of the tests exists.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

GO = (1, 26)  # what the newest of the tools asks for


@dataclass(frozen=True)
class Tool:
    """A program, and the version of the module that it is built from.

    Attributes:
        listed: the module's versions can be listed, as `go install` wants them to be; not every module proxy lists all.
    """

    name: str
    module: str
    version: str
    listed: bool = True

    @property
    def folder(self) -> Path:
        return home() / f"{self.name}@{self.version}"

    @property
    def package(self) -> str:
        return f"{self.module}/cmd/{self.name}"

    @property
    def is_built(self) -> bool:
        return (self.folder / self.name).exists()


TOOLS = (
    Tool("crane", "github.com/google/go-containerregistry", "v0.22.1"),
    Tool("regctl", "github.com/regclient/regclient", "v0.11.7"),
    Tool("oras", "oras.land/oras", "v1.3.3", listed=False),
    Tool("notation", "github.com/notaryproject/notation", "v1.3.2", listed=False),
    Tool("helm", "helm.sh/helm/v4", "v4.3.1"),
    Tool("cosign", "github.com/sigstore/cosign/v3", "v3.1.3"),
    Tool("cosign", "github.com/sigstore/cosign/v2", "v2.6.5"),  # many have it; found by its folder only
)


def home() -> Path:
    """Where the tools lie."""
    return Path(os.environ.get("IARPROXY_TOOLS") or Path.home() / ".cache/iarproxy-tools")


def search_path() -> str:
    """Where tests look for programs: what was built here comes first."""
    built = [str(tool.folder) for tool in TOOLS if tool.is_built]
    return os.pathsep.join([*built, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _why_not() -> str | None:
    """Why nothing can be built; None: it can."""
    if shutil.which("go") is None:
        return "Go is not on this machine"
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < GO:
        return f"Go {GO[0]}.{GO[1]} is needed, and this is {said.strip()}"
    return None


def _build(tool: Tool) -> None:
    started = time.monotonic()
    tool.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as outside:  # of the repository, whose files are none of Go's business
        if tool.listed:
            _go(outside, tool, "install", f"{tool.package}@{tool.version}")
        else:
            required = f"require {tool.module} {tool.version}"
            (Path(outside) / "go.mod").write_text(f"module tools\n\ngo {GO[0]}.{GO[1]}\n\n{required}\n")
            _go(outside, tool, "build", "-mod=mod", "-o", str(tool.folder), tool.package)
    _say(f"{tool.name} {tool.version}: built in {time.monotonic() - started:.0f} s")


def _go(folder: str, tool: Tool, verb: str, *arguments: str) -> None:
    settings = {"GOBIN": str(tool.folder), "CGO_ENABLED": "0"}
    command = ["go", verb, "-trimpath", "-ldflags=-s -w", *arguments]
    subprocess.run(command, cwd=folder, env=os.environ | settings, check=True, timeout=1800)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    missing = [tool for tool in TOOLS if not tool.is_built]
    if missing and (reason := _why_not()):
        _say(f"not built: {', '.join(tool.name for tool in missing)}: {reason}; tests that need them are skipped")
        return 0
    for tool in missing:
        _build(tool)
    return 0


if __name__ == "__main__":
    sys.exit(main())
