"""Who acts is what the kernel says; what a process says of itself counts for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iarproxy.cli.actor import kernel_actor

NOBODY = 65534
NO_LOGIN = 2**32 - 1
ME = os.getuid()
needs_root = pytest.mark.skipif(ME != 0, reason="only root can become somebody else")
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def _proc(folder: Path, login: int | None) -> Path:
    """A /proc that knows no ancestors."""
    (folder / "self").mkdir()
    if login is not None:
        (folder / "self/loginuid").write_text(str(login))
    return folder


# A process (as `ROLE` says below nobody, or itself nobody) that prints its actor; one of its own, since a fork of the
# tests' process would carry its threads.
_CHILD = """
import os, sys
from iarproxy.cli.actor import kernel_actor
role, nobody = sys.argv[1], int(sys.argv[2])
if role == "plain":
    print(kernel_actor())
elif role == "nobody":
    os.setuid(nobody)
    print(kernel_actor())
else:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.read(reading, 1)
        print(kernel_actor(), flush=True)
        os._exit(0)
    os.setuid(nobody)
    os.write(writing, b"!")
    os.wait()
"""


def _said(role: str, sudo_uid: str | None = None) -> str:
    """Who a process says that acts: `plain`, as `nobody`, or as root `below` a process of nobody."""
    variables = {key: value for key, value in os.environ.items() if key != "SUDO_UID"}
    variables |= {} if sudo_uid is None else {"SUDO_UID": sudo_uid}
    command = [sys.executable, "-c", _CHILD, role, str(NOBODY)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_the_process_says_who(tmp_path: Path) -> None:
    """Where nobody logged in, and where there is no /proc at all, it is the process's user."""
    assert f"(uid {ME})" in kernel_actor({}, _proc(tmp_path, NO_LOGIN))
    assert kernel_actor({}, tmp_path / "none") == kernel_actor({}, tmp_path)


def test_the_login_says_who_through_sudo(tmp_path: Path) -> None:
    """The user who logged in is named, and as whom."""
    said = kernel_actor({}, _proc(tmp_path, 54321))
    assert f"uid 54321 as {kernel_actor({}, tmp_path / 'none')}" == said


def test_variables_are_not_believed(tmp_path: Path) -> None:
    """Anybody can set SUDO_UID, USER and LOGNAME; without an ancestor of that uid they change nothing."""
    said = {"SUDO_UID": "54321", "SUDO_USER": "ann", "USER": "ann", "LOGNAME": "ann", "IARPROXY_ACTOR": "ann"}
    assert kernel_actor({}, tmp_path / "none") == kernel_actor(said)
    assert kernel_actor({}, tmp_path / "none") == kernel_actor(said, _proc(tmp_path, NO_LOGIN))


@needs_root
@needs_proc
@pytest.mark.parametrize("text", ["", "-1", "0x3e8", "9" * 400, str(NOBODY + 1)])
def test_a_wrong_uid_is_no_proof(text: str) -> None:
    """What is no number, or the number of nobody above, is as if it was not there."""
    assert _said("plain") == _said("below", text)


@needs_root
@needs_proc
def test_who_called_sudo_is_named() -> None:
    """A process of root below one of nobody that says so was called by nobody."""
    said = _said("below", str(NOBODY))
    assert f"(uid {NOBODY}) as {_said('plain')}" in said
    assert _said("plain") == _said("below")


@needs_root
@needs_proc
def test_only_root_has_a_caller() -> None:
    """A process that is not root did not get there by sudo, whatever it says."""
    assert " as " not in _said("nobody", "0")
