"""The guards of conftest.py, seen from outside: a suite that breaks a rule must fail, and say what broke it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

BREACHES = """
import asyncio, os, socket, subprocess, threading, time
import pytest, structlog, uvloop

def test_connects():
    with socket.socket() as door:
        try:
            door.connect(("192.0.2.1", 80))
        except AssertionError:
            pass

def test_resolves():
    socket.getaddrinfo("registry.example", 443)

def test_connects_with_uvloop():
    async def dial():
        await asyncio.get_running_loop().create_connection(asyncio.Protocol, "192.0.2.2", 80)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(dial())

def test_file():
    os.open("/dev/null", os.O_RDONLY)

def test_thread():
    threading.Thread(target=time.sleep, args=(3,), name="straggler", daemon=True).start()

def test_process():
    test_process.kept = subprocess.Popen(["sleep", "3"])

async def test_task():
    test_task.kept = asyncio.create_task(asyncio.sleep(9), name="forgotten")

@pytest.fixture(scope="module")
def shared():
    read, write = os.pipe()
    yield read
    os.close(read), os.close(write)

def test_wider_scope(shared):
    with socket.socket() as door, socket.socket() as caller:
        door.bind(("127.0.0.1", 0)), door.listen()
        caller.connect(door.getsockname())

def test_logs():
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())

@pytest.mark.real("no-such-program")
def test_real(): ...
"""
INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
markers =
  real: needs programs
  root: needs root
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_guards(pytester: pytest.Pytester, workers: str) -> None:
    """Each breach fails its own test with its name, and a missing program is a counted skip with its remedy."""
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text().replace("GRACE = 2.0", "GRACE = 0.1"))
    for module in ("proofs", "go_tools"):
        pytester.makepyfile(**{module: Path(__file__).with_name(f"{module}.py").read_text()})
    pytester.makeini(INI)
    pytester.makepyfile(BREACHES)
    result = pytester.runpytest_subprocess("-n", workers, "-p", "no:cacheprovider")
    seen = result.stdout.str()
    expected = [
        "connect to 192.0.2.1 port 80",
        "resolve the name 'registry.example'",
        "connect to 192.0.2.2 port 80",
        "/dev/null",
        "thread straggler",
        "sleep",
        "forgotten",
        "where all later logs go",
        "apt-get install -y --no-install-recommends no-such-program",
    ]
    assert [line for line in expected if line not in seen] == []
    outcomes = result.parseoutcomes()
    assert (outcomes["errors"], outcomes["skipped"]) == (8, 1), seen
