"""TLS for clients in one process: reload, client certificates, handshakes that fail, bodies (item 76)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from certificates import CertificateAuthority, Pair
from iarproxy.errors import ConfigError
from iarproxy.mirror.serving.answers import Served as Use
from iarproxy.oci import Digest
from iarproxy.server.door import Door
from iarproxy.server.frame import RegistryServer
from iarproxy.server.handshake import Gate
from iarproxy.server.listeners import Role, open_listeners
from iarproxy.server.registry import RegistryFace
from iarproxy.server.sending import Pace
from iarproxy.server.tls import Tls, TlsFiles, read_identity
from serving import ROUTES, Reply, both_loops, read_reply, until
from test_lane import MemoryMirror

BIG = os.urandom(1 << 20) * 24
PING = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
TAG = b"GET /v2/alpine/manifests/3 HTTP/1.1\r\nHost: m\r\n\r\n"


@dataclass
class Secured:
    """A door with TLS in front of a mirror, and the files that it shows."""

    folder: Path
    authority: CertificateAuthority
    files: TlsFiles
    mirror: MemoryMirror
    tls: Tls
    door: Door
    port: int
    outcomes: Counter[str] = field(default_factory=Counter)
    records: list[dict[str, Any]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def used(self, served: Any) -> None:
        self.uses += served

    async def connect(self, trust: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = trust or self.authority.client()
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="localhost")

    async def shown(self) -> int:
        """The serial number that a new handshake shows."""
        _, writer = await self.connect()
        found = serial(writer)
        await closed(writer)
        return found


def serial(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("peercert")["serialNumber"], 16)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.sleep(0.02)


async def answer(trust: ssl.SSLContext, secured: Secured, request: bytes = PING) -> Reply | None:
    """The answer on a connection of its own; None: there was none."""
    try:
        reader, writer = await secured.connect(trust)
    except OSError:
        return None
    try:
        writer.write(request)
        return await read_reply(reader)
    except (OSError, asyncio.IncompleteReadError):  # under TLS 1.3 a client learns late that it was refused
        return None
    finally:
        await closed(writer)


@asynccontextmanager
async def secured(
    folder: Path, *, clients: CertificateAuthority | None = None, required: bool = True, deadline: float = 10.0
) -> AsyncIterator[Secured]:
    """A door that speaks TLS with a certificate for localhost."""
    authority = CertificateAuthority(folder)
    files = TlsFiles(folder / "tls.crt", folder / "tls.key", clients.path if clients else None, required)
    authority.issue().write(files.certificate, files.key)
    mirror = MemoryMirror(folder)
    mirror.pin("docker.io/library/alpine:3")
    (listener,) = open_listeners([(Role.TLS, "127.0.0.1:0")])
    made = Secured(folder, authority, files, mirror, Tls(read_identity(files)), None, 0)  # type: ignore[arg-type]  # set below
    face = RegistryFace(
        mirror, ROUTES, memory=mirror, uses=made, log=lambda each: made.records.append(dict(each)), pace=Pace(window=2)
    )
    answering = face.on(listener.address)
    server = RegistryServer(answering, lane=answering.lane, pace=answering.pace)
    gate = Gate(made.tls, deadline, lambda outcome: made.outcomes.update([outcome]))
    made.port, made.door = listener.sock.getsockname()[1], Door(listener.sock, server, 200, gate)
    made.door.open()
    try:
        yield made
    finally:
        await made.door.close()
        answering.close()


@both_loops
async def test_new_files_drop_no_connection(tmp_path: Path) -> None:
    """A transfer under way and an idle connection go on with the old certificate; new handshakes see the new one."""
    async with secured(tmp_path) as world:
        digest = world.mirror.add(BIG)
        first = await world.shown()
        idle_reader, idle = await world.connect()
        reader, busy = await world.connect()
        busy.write(f"GET /v2/alpine/blobs/{digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        second = world.authority.issue()
        second.write(world.files.certificate, world.files.key)
        with capture_logs() as logs:
            await world.tls.check()
        assert ["new handshakes show a new certificate"] == [each["event"] for each in logs]
        assert (second.serial, True) == (await world.shown(), first != second.serial)
        assert Reply.parse(head).headers["content-length"] == str(len(BIG))
        assert await asyncio.wait_for(reader.readexactly(len(BIG)), 30) == BIG
        for each_reader, each in ((idle_reader, idle), (reader, busy)):
            each.write(PING)
            assert b"{}" == (await read_reply(each_reader)).body
            assert first == serial(each)
            await closed(each)


async def test_a_pair_that_does_not_fit_is_kept_out(tmp_path: Path) -> None:
    """One event, a metric, the old certificate for all; what fits later is taken, in whatever order it came."""
    async with secured(tmp_path) as world:
        first = await world.shown()
        second = world.authority.issue()
        key = world.files.key.read_bytes()
        world.files.certificate.write_bytes(second.certificate)
        with capture_logs() as logs:
            for _ in range(3):
                await world.tls.check()
        assert [("error", "the new certificate cannot be used; the old one stays")] == [
            (each["log_level"], each["event"]) for each in logs
        ]
        assert "is not the key of" in logs[0]["reason"]
        assert key.decode().splitlines()[1] not in str(logs)
        assert (first, 1.0) == (await world.shown(), world.tls.gauges()["tls_files_unusable"])
        world.files.key.unlink()
        await world.tls.check()
        assert first == await world.shown()
        second.write(world.files.certificate, world.files.key)
        await world.tls.check()
        assert (second.serial, 0.0) == (await world.shown(), world.tls.gauges()["tls_files_unusable"])


async def test_going_back_to_the_old_files_heals(tmp_path: Path) -> None:
    """A mistake that is undone leaves nothing behind."""
    async with secured(tmp_path) as world:
        kept = world.files.key.rename(tmp_path / "kept")
        await world.tls.check()
        assert 1.0 == world.tls.gauges()["tls_files_unusable"]
        kept.rename(world.files.key)
        await world.tls.check()
        assert 0.0 == world.tls.gauges()["tls_files_unusable"]


@both_loops
async def test_client_certificates_required(tmp_path: Path) -> None:
    """Who shows none, or one of another authority, gets no answer; who shows a good one is named in log and uses."""
    theirs, strangers = CertificateAuthority(tmp_path, "theirs"), CertificateAuthority(tmp_path, "strangers")
    node = theirs.issue("node-1", hosts=())
    async with secured(tmp_path, clients=theirs) as world:
        trust = world.authority.client
        assert await answer(trust(), world) is None
        assert await answer(trust(tmp_path, strangers.issue("node-1")), world) is None
        for request in (TAG, TAG, TAG.replace(b"\r\n\r\n", b"\r\nExpect: nothing\r\n\r\n")):  # the last: not the lane's
            assert (await answer(trust(tmp_path, node), world, request)) is not None
        await until(lambda: len(world.records) == 3 and sum(each.count for each in world.uses) == 3)
        assert ["CN=node-1"] * 3 == [each["subject"] for each in world.records]
        assert {"cert:CN=node-1"} == {each.client for each in world.uses}
        assert {"failed": 2, "done": 3} == dict(world.outcomes)


@both_loops
async def test_client_certificates_optional(tmp_path: Path) -> None:
    """None is fine, a good one is named, one of another authority is no connection."""
    theirs, strangers = CertificateAuthority(tmp_path, "theirs"), CertificateAuthority(tmp_path, "strangers")
    async with secured(tmp_path, clients=theirs, required=False) as world:
        trust = world.authority.client
        assert await answer(trust(), world) is not None
        assert await answer(trust(tmp_path, theirs.issue("node-2", hosts=())), world) is not None
        assert await answer(trust(tmp_path, strangers.issue("node-3")), world) is None
        await until(lambda: len(world.records) == 2)
        assert [None, "CN=node-2"] == [each.get("subject") for each in world.records]


async def test_an_authority_that_was_taken_away_is_trusted_no_more(tmp_path: Path) -> None:
    """A reload forgets the former authority, also where its client has a session to resume."""
    theirs, later = CertificateAuthority(tmp_path, "theirs"), CertificateAuthority(tmp_path, "later")
    async with secured(tmp_path, clients=theirs) as world:
        client = world.authority.client(tmp_path, theirs.issue("node-1", hosts=()))
        assert await answer(client, world) is not None
        theirs.path.write_bytes(later.path.read_bytes())
        await world.tls.check()
        assert await answer(client, world) is None
        assert await answer(world.authority.client(tmp_path, later.issue("node-1", hosts=())), world) is not None


@both_loops
async def test_a_slow_handshake_is_dropped(tmp_path: Path) -> None:
    """A client that says nothing, or half a hello, is closed at the deadline; one that leaves was a probe."""
    async with secured(tmp_path, deadline=0.3) as world:
        for first in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(first)
            async with asyncio.timeout(5):
                assert b"" == await reader.read()
            writer.close()
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.close()
        await until(lambda: world.outcomes.total() == 3)
        assert {"late": 2, "left": 1} == dict(world.outcomes)


@both_loops
async def test_plain_http_is_answered_plainly(tmp_path: Path) -> None:
    """`http://` to the TLS port: one 400 that says what to do, and the end."""
    async with secured(tmp_path) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(PING)
        async with asyncio.timeout(5):
            reply = Reply.parse(await reader.read())
        writer.close()
        assert (400, "close") == (reply.status, reply.headers["connection"])
        assert "https" in orjson.loads(reply.body)["errors"][0]["message"]
        await until(lambda: world.outcomes == {"plain": 1})


async def test_versions_and_protocols(tmp_path: Path) -> None:
    """TLS 1.2 and 1.3, HTTP/1.1 by ALPN whatever else is offered; nothing older."""
    async with secured(tmp_path) as world:
        for version, expected in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            trust = world.authority.client(maximum_version=version)
            trust.set_alpn_protocols(["h2", "http/1.1"])
            _, writer = await world.connect(trust)
            shown = writer.get_extra_info("ssl_object")
            assert (expected, "http/1.1") == (shown.version(), shown.selected_alpn_protocol())
            await closed(writer)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old = world.authority.client(maximum_version=ssl.TLSVersion.TLSv1_1, minimum_version=ssl.TLSVersion.TLSv1_1)
        assert await answer(old, world) is None


async def test_a_session_is_resumed(tmp_path: Path) -> None:
    """A client that was here before needs no whole handshake: dockerd makes a connection for each request."""
    async with secured(tmp_path) as world:
        trust = world.authority.client()
        sessions: list[ssl.SSLSession | None] = [None]

        def ask() -> bool:
            with (
                socket.create_connection(("127.0.0.1", world.port)) as plain,
                trust.wrap_socket(plain, server_hostname="localhost", session=sessions[0]) as client,
            ):
                client.sendall(PING)
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
                sessions[0] = client.session
                return bool(client.session_reused)

        assert [False, True] == [await asyncio.to_thread(ask), await asyncio.to_thread(ask)]


@both_loops
async def test_a_slow_reader_costs_little_memory(tmp_path: Path) -> None:
    """Of a large blob only what fits into buffers leaves the disk while the client does not read; then it is cut."""
    async with secured(tmp_path) as world:
        digest = world.mirror.add(BIG * 3)
        _, writer = await world.connect()  # whose reader stops the socket at 128 KiB
        writer.write(f"GET /v2/alpine/blobs/{digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        await until(lambda: bool(world.records), 15)
        await closed(writer)
        assert "stalled" == world.records[0]["outcome"]
        assert 0 < world.records[0]["bytes"] < len(BIG)


async def test_a_silent_client_does_not_hold_up_leaving(tmp_path: Path) -> None:
    """Who has not even greeted when the server leaves is let go after a moment."""
    async with secured(tmp_path) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        world.door.leave()
        assert await world.door.drained(loop.time() + 8)
        assert b"" == await reader.read()
        writer.close()


@pytest.mark.parametrize(("days", "event"), [(13, "the certificate expires soon"), (-1, "the certificate has expired")])
async def test_expiry_is_told_once_a_day(tmp_path: Path, days: int, event: str) -> None:
    """Two weeks before, and after, a warning a day; the metric tells the moment always."""
    authority, moment = CertificateAuthority(tmp_path), [datetime.now(UTC)]
    files = TlsFiles(tmp_path / "c", tmp_path / "k")
    authority.issue(days=days).write(files.certificate, files.key)
    tls = Tls(read_identity(files), now=lambda: moment[0])
    with capture_logs() as logs:
        for _ in range(4):
            await tls.check()
            moment[0] += timedelta(hours=13)
    assert [("warning", event)] * 2 == [(each["log_level"], each["event"]) for each in logs]
    assert abs(tls.gauges()["tls_not_after_seconds"] - (datetime.now(UTC) + timedelta(days=days)).timestamp()) < 60


def _write(folder: Path, what: str) -> TlsFiles:
    """Files of which one is wrong in the way that `what` says."""
    authority, files = CertificateAuthority(folder), TlsFiles(folder / "c", folder / "k", folder / "authority.crt")
    authority.issue(passphrase="hush" if what == "passphrase" else "").write(files.certificate, files.key)
    match what:
        case "no certificate":
            files.certificate.unlink()
        case "key as certificate":
            files.certificate.write_bytes(files.key.read_bytes())
        case "certificate as key":
            files.key.write_bytes(files.certificate.read_bytes())
        case "folder":
            files.key.unlink()
            files.key.mkdir()
        case "pipe":
            files.key.unlink()
            os.mkfifo(files.key)
        case "other key":
            files.key.write_bytes(authority.issue().key)
        case "leaf as authority":
            authority.path.write_bytes(files.certificate.read_bytes())
        case "empty authority":
            authority.path.write_bytes(b"")
        case _:
            pass
    return files


WRONG = {
    "no certificate": "server.tls.cert_file: {c} cannot be read (No such file or directory); check the path",
    "key as certificate": "server.tls.cert_file: {c} holds no PEM certificate; give",
    "certificate as key": "server.tls.key_file: {k} holds no PEM private key; give",
    "folder": "server.tls.key_file: {k} is no file; give",
    "pipe": "server.tls.key_file: {k} is no file; give",
    "passphrase": "server.tls.key_file: {k} needs a passphrase; write it without one",
    "other key": "server.tls.key_file: {k} is not the key of {c}; give",
    "leaf as authority": "server.tls.client_ca_file: {a} holds no authority's certificate; give",
    "empty authority": "server.tls.client_ca_file: {a} cannot be used",
}


@pytest.mark.parametrize("what", WRONG)
def test_files_that_cannot_be_used_are_one_line(tmp_path: Path, what: str) -> None:
    """Key, file and remedy in one line, and nothing of what is in the files."""
    with pytest.raises(ConfigError) as caught:
        read_identity(_write(tmp_path, what))
    line = str(caught.value)
    assert line.startswith(WRONG[what].format(c=tmp_path / "c", k=tmp_path / "k", a=tmp_path / "authority.crt"))
    assert "\n" not in line
    assert "BEGIN" not in line


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Files that fit."""
    return _write(tmp_path_factory.mktemp("pristine"), "nothing")


@given(st.integers(0, 2), st.integers(0, 10_000), st.integers(0, 40), st.binary(max_size=8))
def test_files_of_any_content(pristine: TlsFiles, which: int, at: int, cut: int, put: bytes) -> None:
    """Whatever bytes change in certificate, key or authority: it is read, or refused in one line, and nothing else."""
    assert pristine.client_ca is not None
    path = (pristine.certificate, pristine.key, pristine.client_ca)[which]
    kept = path.read_bytes()
    at %= len(kept)
    path.write_bytes(kept[:at] + put + kept[at + cut :])
    try:
        read_identity(pristine)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017  # both endings are right
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(("mode", "count"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1)])
def test_what_is_unwise_is_told(tmp_path: Path, mode: int, count: int) -> None:
    """A key that other users can read is a remark, no refusal: a Kubernetes secret is mounted so."""
    files = _write(tmp_path, "nothing")
    files.key.chmod(mode)
    assert count == len(read_identity(files).remarks)


def test_a_certificate_without_a_host_is_told(tmp_path: Path) -> None:
    """Go clients refuse it, with words that point elsewhere."""
    files = TlsFiles(tmp_path / "c", tmp_path / "k")
    CertificateAuthority(tmp_path).issue(hosts=()).write(files.certificate, files.key)
    assert "subjectAltName" in read_identity(files).remarks[0]


def test_the_name_of_a_pair_is_its_own(tmp_path: Path) -> None:
    """What the tests issue differs each time."""
    authority = CertificateAuthority(tmp_path)
    pairs: list[Pair] = [authority.issue(), authority.issue()]
    assert 2 == len({Digest.of(each.certificate) for each in pairs})
