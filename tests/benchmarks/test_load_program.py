"""The load generator in C: what it counts as an answer, and what it reports."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import build
from benchmarks.processes import Command
from scripted import Reply, always, scripted

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install -y gcc libc6-dev")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("load"))


def asked(program: Path, reply: Callable[[int], Reply], *options: str, mode: str = "closed") -> dict[str, Any]:
    """What the generator reports of a server that answers so; `heads`: what it asked."""
    with scripted(reply) as server:
        command: Command = [program, mode, "--port", str(server.port), "--timeout", "5", *options, "/x"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        found: dict[str, Any] = json.loads(ran.stdout)
        return found | {"heads": list(server.heads)}


def test_counts_right_answers(program: Path) -> None:
    """Three requests on one connection are three answers of five bytes, with latencies."""
    found = asked(program, always(OK), "--requests", "3")
    assert (3, 15, 0, 0) == (found["requests"], found["bytes"], found["errors"], found["reconnects"])
    assert 0 < found["latency_us"]["p50"] <= found["latency_us"]["p99"] <= found["latency_us"]["max"]


@pytest.mark.parametrize(
    "pieces",
    [
        [OK[:3], OK[3:20], OK[20:]],
        [OK[:-5], OK[-5:-2], OK[-2:]],
        [b"HTTP/1.1 200 OK\r\ncontent-LENGTH:5 \r\nX: Content-Length: 9\r\n\r\nhello"],
        [b"HTTP/1.1 200 \r\nContent-Length:   0005\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello"],
    ],
)
def test_reads_heads_however_they_come(program: Path, pieces: list[bytes]) -> None:
    """A head in pieces, in other letters or with blanks is understood."""
    found = asked(program, always(*pieces), "--requests", "2", "--length", "5")
    assert (2, 10, "") == (found["requests"], found["bytes"], found["complaint"])


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "status"),
        (b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell", "length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "framing"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "framing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "framing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello", "framing"),
        (b"SMTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "framing"),
        (OK + b"!", "framing"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000 + b"\r\n\r\n", "framing"),
    ],
)
def test_counts_wrong_answers_as_faults(program: Path, answer: bytes, fault: str) -> None:
    """An answer that is not the expected one is a fault of its kind and no answer."""
    found = asked(program, always(answer), "--requests", "1", "--length", "5")
    assert (0, 1, 1) == (found["requests"], found["errors"], found["faults"][fault])
    assert found["complaint"]


def test_counts_a_cut_body(program: Path) -> None:
    """A body that never ends, and a connection that ends without an answer, are faults."""
    found = asked(program, always(OK[:-2]), "--requests", "1", "--timeout", "0.3")
    assert (0, 3, 1) == (found["requests"], found["bytes"], found["faults"]["timeout"])
    assert 1 == asked(program, lambda _: None, "--requests", "1")["faults"]["cut"]


def test_opens_a_closed_connection_again(program: Path) -> None:
    """A server that closes after each answer, as it says, costs reconnects and no faults."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    found = asked(program, always(closing), "--requests", "3")
    assert (3, 0, 3) == (found["requests"], found["errors"], found["reconnects"])


def test_answers_before_the_start_do_not_count(program: Path) -> None:
    """With --ask each connection has one answer first, which is sent and not counted."""
    found = asked(program, always(OK), "--connections", "2", "--ask", "--requests", "3")
    assert (3, 15, 5) == (found["requests"], found["bytes"], len(found["heads"]))
    wrong = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    assert asked(program, lambda number: [OK if number else wrong], "--ask", "--requests", "1")["faults"]["status"]


def test_expects_no_body_to_head(program: Path) -> None:
    """HEAD is answered with a length and no bytes; a body behind it is a fault."""
    bodiless = OK.removesuffix(b"hello")
    found = asked(program, always(bodiless), "--method", "HEAD", "--requests", "2", "--length", "5")
    assert (2, 0, 0) == (found["requests"], found["bytes"], found["errors"])
    assert 1 == asked(program, always(OK), "--method", "HEAD", "--requests", "1")["faults"]["framing"]


def test_sends_what_it_was_told(program: Path) -> None:
    """Headers, range and the counter that makes heads unique are in each request."""
    partial = OK.replace(b"200 OK", b"206 Partial Content")
    options = ["--requests", "2", "--range", "0-4", "--header", "Accept: a/b", "--unique"]
    heads = asked(program, always(partial), *options)["heads"]
    wanted = (
        b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nAccept: a/b\r\nRange: bytes=0-4\r\nX-Request-Id: 000000000%d\r\n\r\n"
    )
    port = heads[0].split(b"127.0.0.1:")[1].split(b"\r")[0]
    assert [wanted % (port, 0), wanted % (port, 1)] == heads


def test_walks_through_a_file_of_paths(program: Path, tmp_path: Path) -> None:
    """Each line of the file is a path, with the length that its answer must have."""
    (tmp_path / "paths").write_text("/a 5\n/b 4\n")
    found = asked(program, always(OK), "--paths", str(tmp_path / "paths"), "--requests", "3")
    assert (2, 1) == (found["requests"], found["faults"]["length"])
    assert [b"/x", b"/a", b"/b"] == [head.split()[1] for head in found["heads"]]


def test_a_herd_asks_once_each(program: Path) -> None:
    """Every connection of a herd has one answer."""
    found = asked(program, always(OK), "--connections", "20", "--spread", "0.05", mode="herd")
    assert (20, 100, 0, 0) == (found["requests"], found["bytes"], found["errors"], found["silent"])
    assert found["seconds"] >= 0.04


def test_a_herd_counts_who_failed(program: Path) -> None:
    """Who gets another answer in a herd is counted."""

    def reply(number: int) -> Reply:
        return [OK] if number % 2 else [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"]

    found = asked(program, reply, "--connections", "10", mode="herd")
    assert (5, 5, 5) == (found["requests"], found["faults"]["status"], found["silent"])


def test_keeps_to_a_schedule(program: Path) -> None:
    """With a rate no more requests are sent than it allows."""
    found = asked(program, always(OK), "--connections", "4", "--rate", "100", "--seconds", "0.3")
    assert found["requests"] <= 31


def test_holds_idle_connections(program: Path) -> None:
    """Idle connections are open at the end, each asked once."""
    found = asked(program, always(OK), "--connections", "5", "--ask", "--seconds", "0.05", mode="idle")
    assert (5, 5, 0) == (found["open"], found["requests"], found["errors"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sideways", "--port", "1", "/x"],
        ["closed", "/x"],
        ["closed", "--port", "0", "/x"],
        ["closed", "--port", "1x", "/x"],
        ["closed", "--port", "1"],
        ["closed", "--port", "1", "x"],
        ["closed", "--port", "1", "--method", "POST", "/x"],
        ["closed", "--port", "1", "--header", "nothing", "/x"],
        ["closed", "--port", "1", "--host", "localhost", "/x"],
        ["closed", "--port", "1", "--connections", "0", "/x"],
        ["closed", "--port", "1", "--paths", "/nowhere"],
        ["closed", "--frob"],
        ["closed", "--port", "1", "/x"],
    ],
)
def test_says_in_one_line_what_is_wrong(program: Path, arguments: list[str]) -> None:
    """Bad arguments and a port without a server end the program with one line."""
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert (2, "", 1) == (ran.returncode, ran.stdout, ran.stderr.count("\n"))
