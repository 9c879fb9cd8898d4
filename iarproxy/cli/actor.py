"""Who acts, as the kernel reports it: what the journal keeps beside a reason.

Rule 1: it is never an option, and no variable is believed: anybody can set one.
Rule 2: besides its user id a process has a login uid, where the kernel keeps one: who logged in, through su and sudo.
Rule 3: `SUDO_UID` only says where to look. It counts for a process of uid 0 of which an ancestor really runs with that
        uid now: the shell that called sudo.
Rule 4: where there is no /proc (macOS) the user id is all that is known.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_NOBODY = 2**32 - 1  # the login uid of a process that nobody logged in to start
_MAX_ANCESTORS = 64
_PROC = Path("/proc")
_UID = re.compile(r"[0-9]{1,10}", re.ASCII)


def kernel_actor(environment: Mapping[str, str] = os.environ, proc: Path = _PROC) -> str:
    """Who runs this process; to be asked before it gives up root.

    Args:
        environment: of the process; only `SUDO_UID` is looked at (rule 3).
        proc: where the kernel tells about processes.
    """
    uid = os.getuid()
    person = _login(proc)
    if uid == 0 and person in (None, uid):
        person = _caller(environment, proc)
    return _user(uid) if person is None or person == uid else f"{_user(person)} as {_user(uid)}"


def _login(proc: Path) -> int | None:
    try:
        login = int((proc / "self/loginuid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if login == _NOBODY else login


def _caller(environment: Mapping[str, str], proc: Path) -> int | None:
    """Who called sudo to become root, if an ancestor proves it."""
    said = environment.get("SUDO_UID", "")
    if _UID.fullmatch(said) is None:
        return None
    return int(said) if int(said) in _uids_of_ancestors(proc) else None


def _uids_of_ancestors(proc: Path) -> Iterator[int]:
    """The real user ids of the processes above this one, the nearest first."""
    process = os.getppid()
    for _ in range(_MAX_ANCESTORS):
        try:
            status = (proc / str(process) / "status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        yield int(facts["Uid"].split()[0])
        process = int(facts["PPid"])


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
