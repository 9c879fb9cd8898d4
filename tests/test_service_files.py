"""The service files: systemd understands them, and the system service is as closed as threats.md section 8 asks."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "systemd"
SERVICE = FOLDER / "iarproxy.service"
UNITS = [SERVICE, FOLDER / "iarproxy.socket", FOLDER / "user" / "iarproxy.service"]
EXPOSURE = 1.5


def unit(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    found.optionxform = str  # type: ignore[assignment, method-assign]  # keys of units have upper case
    found.read(path)
    return found


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.real("systemd-analyze")
def test_exposure() -> None:
    """Systemd's own judgement of the system service stays at or below 1.5."""
    ran = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", SERVICE)
    assert ran.returncode == 0, ran.stdout[-2000:]


@pytest.mark.real("systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_unknown_keys(path: Path) -> None:
    """Systemd knows every key and value; that nothing is installed here is all it may say."""
    said = analyze("verify", "--man=no", path).stderr.splitlines()
    assert [line for line in said if "is not executable" not in line] == []


@pytest.mark.parametrize("path", [UNITS[0], UNITS[2]], ids=["system", "user"])
def test_the_contract_with_serve(path: Path) -> None:
    """Both services use what `serve` speaks: readiness, reload by SIGHUP, the watchdog."""
    service = unit(path)["Service"]
    expected = {"Type": "notify", "ExecReload": "/bin/kill -HUP $MAINPID", "WatchdogSec": "30", "UMask": "0077"}
    assert {key: service[key] for key in expected} == expected
    assert service["ExecStart"].endswith("/iarproxy serve")


def test_the_store_is_no_link() -> None:
    """DynamicUser= would make the state folder a symbolic link, which the store refuses."""
    service = unit(SERVICE)["Service"]
    assert "DynamicUser" not in service
    assert (service["User"], service["StateDirectory"], service["StateDirectoryMode"]) == (
        "iarproxy",
        "iarproxy",
        "0700",
    )
