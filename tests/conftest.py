"""What holds for every test, whatever room it is about.

Rule 1: no test reaches anything but loopback: this process may resolve no name but localhost and connect nowhere else.
Rule 2: nothing outlives its test: no asyncio task, open file, thread or child process, and no setting of where logs go.
        What a fixture of a wider scope opens while it is set up belongs to that scope.
Rule 3: a test marked `real` names the programs it drives, `root` needs root; where that is missing the test is skipped,
        and the summary counts the skips and prints the one command that enables them.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import ipaddress
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import settings
from pytest_asyncio.plugin import PytestAsyncioFunction

from go_tools import TOOLS

pytest_plugins = ["proofs"]
GRACE = 2.0  # seconds that closing files, threads and processes may take to be gone
PACKAGES = {
    "ctr": "containerd",
    "ip": "iproute2",
    "systemd-analyze": "systemd",
    "promtool": "prometheus",
}  # the Debian package of a program, where the names differ
ELSEWHERE = {"conformance": "for conformance see tests/real/test_conformance.py"}  # no package has it
FILES = Path("/proc/self/fd")
MISSING = "these programs are missing: "
NO_ROOT = "needs root"


# --- rule 1: loopback only -------------------------------------------------------------------------------------------

_breaches: list[str] = []


def _is_loopback(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_literal(host: object) -> bool:
    """Whether `host` is an address already: reading one asks nobody."""
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host).partition("%")[0])
    except ValueError:
        return False
    return True


def _refuse(what: str) -> None:
    _breaches.append(what)
    raise AssertionError(f"a test may reach loopback only, but tried to {what}")


def _check_connect(address: object) -> None:
    if isinstance(address, tuple) and address and not _is_loopback(address[0]):
        _refuse(f"connect to {address[0]} port {address[1] if len(address) > 1 else '?'}")


def _check_resolve(host: object) -> None:
    if not _is_loopback(host) and not _is_literal(host):
        _refuse(f"resolve the name {host!r}")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    match event:
        case "socket.connect" | "socket.sendto" | "socket.sendmsg":
            _check_connect(args[1])
        case "socket.getaddrinfo" | "socket.gethostbyname":
            _check_resolve(args[0])
        case _:
            pass


def _guarded(name: str) -> Callable[..., Any]:
    """The method `name` of uvloop's loop behind the guard: libuv raises no audit events of its own."""
    inner = getattr(uvloop.Loop, name)
    signature = inspect.signature(getattr(asyncio.AbstractEventLoop, name))

    def method(self: uvloop.Loop, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        _check_resolve(given.get("host"))
        if name == "create_connection":
            _check_connect((given.get("host"), given.get("port")))
        return inner(self, *args, **kwargs)

    return method


# --- rule 2: nothing outlives its test -------------------------------------------------------------------------------


def _open_files() -> set[str]:
    """`number target` of each open file; empty where there is no /proc."""
    found = set()
    for link in FILES.iterdir() if FILES.is_dir() else ():
        try:
            target = str(link.readlink())
        except OSError:  # the descriptor that lists the folder
            continue
        found.add(f"file {link.name} {target.removesuffix(' (deleted)')}")
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    return {each for each in found if not each.startswith(f"file {getattr(tracker, '_fd', None)} ")}


def _threads() -> set[str]:
    return {f"thread {each.name} {each.ident}" for each in threading.enumerate() if each.is_alive()}


def _children() -> set[str]:
    """`process pid` of each child, zombies included; empty where there is no /proc. Its name changes when it execs."""
    tracker = getattr(getattr(resource_tracker, "_resource_tracker", None), "_pid", None)
    found: set[str] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            pids = task.read_text().split()
        except OSError:  # the thread ended meanwhile
            continue
        found.update(f"process {pid}" for pid in pids if pid != str(tracker))
    return found


def _told(left: str) -> str:
    """What is left behind, a process with its name."""
    kind, _, pid = left.partition(" ")
    try:
        return f"{left} {Path(f'/proc/{pid}/comm').read_text().strip()}" if kind == "process" else left
    except OSError:
        return f"{left} (ended)"


def _belongings() -> set[str]:
    return _open_files() | _threads() | _children()


def _leaks(known: set[str]) -> list[str]:
    """What is there beyond `known`, after what is closing had time to close."""
    deadline = time.monotonic() + GRACE
    while more := _belongings() - known:
        gc.collect()
        if time.monotonic() > deadline:
            return sorted(map(_told, more))
        time.sleep(0.01)
    return []


_known: set[str] = set()
_LOGS = structlog.get_config()["logger_factory"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    _known.clear()
    _known.update(_belongings())
    _breaches.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    if fixturedef.scope == "function":
        return (yield)
    before = _belongings()
    try:
        return (yield)
    finally:
        _known.update(_belongings() - before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    if _breaches:
        pytest.fail(f"the test left loopback: tried to {'; '.join(_breaches)}", pytrace=False)
    if left := _leaks(_known):
        pytest.fail(f"the test left behind: {'; '.join(left)}", pytrace=False)
    if structlog.get_config()["logger_factory"] is not _LOGS:
        structlog.reset_defaults()
        pytest.fail("the test set where all later logs go; run the command as a process of its own", pytrace=False)
    return result


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Asked for by every async test (see `pytest_collection_modifyitems`), first, so that it is torn down last."""
    yield
    deadline = time.monotonic() + GRACE
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        if time.monotonic() > deadline:
            names = [repr(task) for task in left]
            for task in left:
                if task is not None:
                    task.cancel()
            pytest.fail(f"the test left tasks behind: {names}", pytrace=False)
        await asyncio.sleep(0.01)


# --- rule 3: real programs and root ----------------------------------------------------------------------------------


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _gate(item: pytest.Item) -> None:
    wanted = {str(name) for mark in item.iter_markers("real") for name in mark.args}
    if missing := sorted(name for name in wanted if _program(name) is None):
        item.add_marker(pytest.mark.skip(reason=MISSING + ", ".join(missing)))
    if item.get_closest_marker("root") and os.geteuid() != 0:
        item.add_marker(pytest.mark.skip(reason=NO_ROOT))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        _gate(item)
        if isinstance(item, PytestAsyncioFunction):
            item.fixturenames.insert(0, "no_leaked_tasks")


def _skips(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for report in reporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            yield str(report.longrepr[2]).removeprefix("Skipped: ")


def _remedies(names: set[str]) -> Iterator[str]:
    """What brings these programs."""
    built = names & {tool.name for tool in TOOLS}
    if packages := sorted({PACKAGES.get(name, name) for name in names - built - ELSEWHERE.keys()}):
        yield f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if built:
        yield "python3 tests/go_tools.py"
    yield from (ELSEWHERE[name] for name in sorted(names & ELSEWHERE.keys()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(_skips(terminalreporter))
    real = {reason: count for reason, count in reasons.items() if reason.startswith(MISSING)}
    if real:
        names = {name for reason in real for name in re.split(", ", reason.removeprefix(MISSING))}
        terminalreporter.write_line(
            f"{sum(real.values())} tests with real programs were skipped; to enable them: {'; '.join(_remedies(names))}"
        )
    if reasons[NO_ROOT]:
        terminalreporter.write_line(f"{reasons[NO_ROOT]} tests need root; to enable them: sudo make test")


# --- once per process ------------------------------------------------------------------------------------------------


def pytest_configure() -> None:
    """Turn the guard on. libuv keeps two pipes for the life of the process: they are made here, not in some test."""
    settings.register_profile("house", deadline=None)  # performance is not asserted in tests
    settings.load_profile("house")
    uvloop.new_event_loop().close()
    sys.addaudithook(_audit)
    for name in ("create_connection", "getaddrinfo"):
        setattr(uvloop.Loop, name, _guarded(name))
