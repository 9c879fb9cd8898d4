"""What the run was made on: machine, kernel, versions; and what one core's sha256 does."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.processes import Command, Failed, find, run


def facts(tools: Path, iarproxy: Path, folder: Path) -> dict[str, Any]:
    """Everything that a reader needs to place the numbers."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _said(["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"], folder),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": Path("/proc/loadavg").read_text().split()[0],
        "versions": versions(tools, iarproxy, folder),
    }


def versions(tools: Path, iarproxy: Path, folder: Path) -> dict[str, str]:
    """What each program says that it is; only of those that are there."""
    asked: dict[str, Command] = {
        "iarproxy": [iarproxy, "--version"],
        "nginx": ["nginx", "-v"],
        "docker-registry": ["docker-registry", "--version"],
        "distribution": [tools / "registry", "--version"],
        "drayage": [tools / "venv/bin/drayage", "--version"],
        "skopeo": ["skopeo", "--version"],
        "containerd": ["containerd", "--version"],
        "gcc": ["cc", "-dumpfullversion"],
    }
    found = {name: _said(command, folder) for name, command in asked.items() if find(str(command[0]))}
    return {name: said for name, said in found.items() if said}


def _said(command: Command, folder: Path) -> str:
    program = find(str(command[0])) or str(command[0])
    try:
        text = run(["sh", "-c", 'exec "$@" 2>&1', "sh", program, *command[1:]], folder, 20)
    except Failed:
        return ""
    return text.strip().split("\n")[0].removeprefix(f"{program} ")


def _field(file: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", Path(file).read_text(), re.MULTILINE)
    return found[1].strip() if found else "unknown"


def sha256_speed(seconds: float = 0.5) -> tuple[float, float]:
    """Bytes that one core hashes in a second by the clock, and in a second of its own time."""
    block, seen, count = os.urandom(1 << 20), hashlib.sha256(), 0
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        seen.update(block)
        count += len(block)
    return count / (time.perf_counter() - began), count / (time.process_time() - used)
