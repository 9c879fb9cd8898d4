"""The service files: systemd understands them, and the system service is as closed as threats.md section 8 asks."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "systemd"
SERVICE = FOLDER / "iarproxy.service"
INBOX = FOLDER / "iarproxy-inbox.service"
UNITS = [SERVICE, FOLDER / "iarproxy.socket", FOLDER / "user" / "iarproxy.service"]
UNITS += [INBOX, INBOX.with_suffix(".path"), INBOX.with_suffix(".timer")]
EXPOSURE = {SERVICE: 1.5, INBOX: 1.0}


def unit(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    found.optionxform = str  # type: ignore[assignment, method-assign]  # keys of units have upper case
    found.read(path)
    return found


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.real("systemd-analyze")
@pytest.mark.parametrize("path", EXPOSURE, ids=lambda path: path.name)
def test_exposure(path: Path) -> None:
    """Systemd's own judgement of the system services stays at or below what they say."""
    ran = analyze("security", "--offline=true", f"--threshold={EXPOSURE[path] * 10:.0f}", path)
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


def test_the_inbox_beside_the_server() -> None:
    """The pass is as closed as the server and has no network; it ends, and takes nothing away that the server needs."""
    server, inbox = unit(SERVICE)["Service"], unit(INBOX)["Service"]
    shared = ["User", "Group", "Environment", "StateDirectory", "StateDirectoryMode", "UMask", "SystemCallFilter"]
    assert [server[key] for key in shared] == [inbox[key] for key in shared]
    assert ("oneshot", "yes", "AF_UNIX") == (inbox["Type"], inbox["PrivateNetwork"], inbox["RestrictAddressFamilies"])
    assert inbox["ExecStart"].endswith("/iarproxy bundle inbox")
    assert "RuntimeDirectory" not in inbox  # it would be removed at the end, under the server


def test_what_starts_the_inbox() -> None:
    """The path unit watches the folder that the example configures, and the timer looks for what it misses."""
    path, timer = unit(INBOX.with_suffix(".path")), unit(INBOX.with_suffix(".timer"))
    example = (FOLDER.parent / "config" / "iarproxy.example.toml").read_text()
    assert f'path = "{path["Path"]["PathChanged"]}"' in example
    assert "OnUnitInactiveSec" in timer["Timer"]
    assert ["multi-user.target", "timers.target"] == [each["Install"]["WantedBy"] for each in (path, timer)]


@pytest.mark.parametrize("path", [SERVICE, INBOX], ids=["server", "inbox"])
def test_the_store_is_no_link(path: Path) -> None:
    """DynamicUser= would make the state folder a symbolic link, which the store refuses."""
    service = unit(path)["Service"]
    assert "DynamicUser" not in service
    assert (service["User"], service["StateDirectory"], service["StateDirectoryMode"]) == (
        "iarproxy",
        "iarproxy",
        "0700",
    )
