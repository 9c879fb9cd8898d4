"""Health, metrics and the read-only API (item 77; threats T49, T79)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, web

from iarproxy.errors import LedgerDamaged, StoreUnavailable
from iarproxy.ledger import (
    DEFAULT,
    Damage,
    DriftState,
    Event,
    EventKind,
    Name,
    NotUsed,
    Pin,
    Recall,
    Use,
    Used,
    UseSummary,
    UsesUnreadable,
    Withheld,
)
from iarproxy.metrics import Metrics, clear, forget
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.server.admin import AdminFace
from iarproxy.store import StoreStats
from iarproxy.trust.admission import AwaitsApproval, CoolingDown, NotSeeded, SeedMismatch, Withholding
from iarproxy.upstream import Spender, Standing, UpstreamStanding
from iarproxy.upstream.limits import Quota
from images import small_image
from whole import OTHER, whole

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DESCRIPTOR = Descriptor(OCI_MANIFEST, Digest.of(b"m"), 1)
OFFERED = Descriptor(OCI_MANIFEST, Digest.of(b"n"), 1)
REFERENCES = [TagReference(Repository.of("docker.io", "alpine"), Tag(str(each))) for each in range(5)]


@dataclass
class FakeRooms:
    """Five pins, the last two under drift."""

    failure: Exception | None = None
    hangs: bool = False
    empty: bool = False
    counted: int = 0
    ledger: Any = field(init=False)
    store: Any = field(init=False)
    uses: Any = field(init=False)
    recalls: Any = field(init=False)
    watching: Any = field(init=False)
    used: UseSummary = field(default_factory=NotUsed)

    def __post_init__(self) -> None:
        self.ledger = self.store = self.uses = self.recalls = self.watching = self
        self.known = {each: Recall(each, NOW, "ann", "malware") for each in sorted(map(Digest.of, (b"1", b"2", b"3")))}
        self.all = [Pin(each, DESCRIPTOR, NOW, "https://registry-1.docker.io", 1) for each in REFERENCES]
        whys: list[Withholding] = [
            CoolingDown(NOW),
            AwaitsApproval("why"),
            SeedMismatch(DESCRIPTOR.digest),
            NotSeeded(),
        ]
        names = [Name(DEFAULT, each) for each in REFERENCES[: len(whys)]]
        self.candidates = [Withheld(name, OFFERED, NOW, "s", why) for name, why in zip(names, whys, strict=True)]
        if self.empty:
            self.all, self.candidates = [], []
        self.state = DriftState("drifted", OFFERED, NOW, NOW)

    async def pins(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Pin]:
        if self.failure:
            raise self.failure
        return [pin for pin in self.all if after is None or pin.reference > after][:limit]

    async def pin_of(self, reference: TagReference) -> Pin | None:
        return next((pin for pin in self.all if pin.reference == reference), None)

    def peek_drift(self, reference: TagReference) -> DriftState | None:
        return self.state if reference in REFERENCES[3:] else None

    async def history(self, reference: TagReference) -> list[Event]:
        return [Event(1, NOW, EventKind.PINNED, reference, "iarproxy", "", {"digest": "d"}, "h")]

    async def waiting(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Withheld]:
        return [each for each in self.candidates if after is None or each.name.reference > after][:limit]

    def within(self, environment: str) -> FakeRooms:
        return self if environment == DEFAULT else FakeRooms(empty=True)

    async def summary(self, _: TagReference) -> UseSummary:
        return self.used

    async def drift_count(self) -> int:
        return len(await self.drifts())

    async def drifts(self) -> list[tuple[Pin, DriftState]]:
        return [(pin, self.state) for pin in reversed(self.all[3:])]

    async def accusations(self, names: list[Name]) -> list[Event | None]:
        body = {"evidence": {"summary": "1 layer replaced (5 B)", "text": ["layer added"]}}
        return [Event(7, NOW, EventKind.DRIFTED, each.reference, "iarproxy", "", body, "h") for each in names]

    def damaged(self) -> list[Damage]:
        return [Damage("docker.io/library/bad:1", "checksum")]

    async def stats(self) -> StoreStats:
        if self.hangs:
            await asyncio.sleep(60)
        if isinstance(self.failure, StoreUnavailable):
            raise self.failure
        self.counted += 1
        return StoreStats(blobs=3, bytes=300, ingests=1, max_size=1000, free=5000)


class Client:
    """Asks the admin face."""

    def __init__(self, session: ClientSession, base: str) -> None:
        self.session, self.base = session, base

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.base + path) as answer:
            raw = await answer.read()
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, orjson.loads(raw) if "json" in answer.content_type else raw.decode()


@asynccontextmanager
async def face(rooms: Any, **given: Any) -> AsyncIterator[Client]:
    admin = AdminFace(rooms, Metrics.open(None), **given)
    async with serving_app(admin.application()) as client:
        yield client


@asynccontextmanager
async def serving_app(app: web.Application) -> AsyncIterator[Client]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with ClientSession() as session:
        yield Client(session, f"http://{host}:{port}")
    await runner.cleanup()


async def test_recalls_are_listed_by_digest() -> None:
    """A page at a time, with who recalled what, when and why; what is no digest to go on from is refused."""
    rooms = FakeRooms()
    first, second, third = map(str, rooms.known)
    async with face(rooms) as client:
        status, page = await client.get("/api/v1/recalls?limit=2")
        shown = [(each["digest"], each["actor"], each["reason"], each["with"]) for each in page["recalls"]]
        assert (200, [(each, "ann", "malware", None) for each in (first, second)], second) == (
            status,
            shown,
            page["next"],
        )
        _, rest = await client.get(f"/api/v1/recalls?after={second}")
        assert ([third], None) == ([each["digest"] for each in rest["recalls"]], rest["next"])
        assert 400 == (await client.get("/api/v1/recalls?after=me"))[0]


async def test_what_waits_is_listed() -> None:
    """A page at a time: what upstream offers for which tag, and why it is not its pin."""
    async with face(FakeRooms()) as client:
        status, page = await client.get("/api/v1/waiting?limit=3")
        assert (200, ["cooling-down", "awaits-approval", "seed-mismatch"], str(REFERENCES[2])) == (
            status,
            [each["why"] for each in page["waiting"]],
            page["next"],
        )
        _, rest = await client.get(f"/api/v1/waiting?after={page['next']}")
        assert ([(str(REFERENCES[3]), "not-seeded", None)], None) == (
            [(each["reference"], each["why"], each["detail"]) for each in rest["waiting"]],
            rest["next"],
        )


async def test_each_environment_is_listed_by_itself() -> None:
    """`environment` says whose pins are meant; where there is none of that name, the answer names those there are."""
    async with face(FakeRooms(), environments=["prod"]) as client:
        assert 5 == len((await client.get("/api/v1/pins?environment=default"))[1]["pins"])
        assert [] == (await client.get("/api/v1/pins?environment=prod"))[1]["pins"]
        assert [] == (await client.get("/api/v1/waiting?environment=prod"))[1]["waiting"]
        assert 404 == (await client.get(f"/api/v1/pins/{REFERENCES[0]}?environment=prod"))[0]
        status, answer = await client.get("/api/v1/pins?environment=nowhere")
        assert (404, True) == (status, "default, prod" in str(answer))


async def test_health() -> None:
    """`/healthz` and `/readyz` are 200 while store and ledger answer."""
    async with face(FakeRooms()) as client:
        assert await client.get("/healthz") == (200, {"status": "ok"})
        assert await client.get("/readyz") == (200, {"status": "ok", "problems": []})


async def test_not_ready() -> None:
    """A ledger or store that fails, and a worker that leaves, are not ready; the loop is still healthy."""
    async with face(FakeRooms(failure=LedgerDamaged("row"))) as client:
        assert await client.get("/readyz") == (503, {"status": "not ready", "problems": ["row"]})
        assert (await client.get("/healthz"))[0] == 200
    async with face(FakeRooms(failure=StoreUnavailable("disk"))) as client:
        assert (await client.get("/readyz"))[0] == 503
    async with face(FakeRooms(), leaving=lambda: True) as client:
        assert (await client.get("/readyz"))[1]["problems"] == ["this worker is leaving"]


async def test_pins_in_pages() -> None:
    """Rule 2: following `next` shows every pin once."""
    seen: list[str] = []
    async with face(FakeRooms()) as client:
        path = "/api/v1/pins?limit=2"
        while True:
            status, page = await client.get(path)
            assert (status, page["damaged"][0]["reason"]) == (200, "checksum")
            seen += [pin["reference"] for pin in page["pins"]]
            if page["next"] is None:
                break
            path = f"/api/v1/pins?limit=2&after={page['next']}"
    assert seen == [str(reference) for reference in REFERENCES]


async def test_one_pin() -> None:
    """A pin with its drift and its history; slashes and a short name are fine; what is not pinned is 404."""
    async with face(FakeRooms()) as client:
        status, shown = await client.get("/api/v1/pins/docker.io/library/alpine:3")
        assert (status, shown["reference"]) == (200, "docker.io/library/alpine:3")
        assert shown["descriptor"]["digest"] == str(DESCRIPTOR.digest)
        assert shown["drift"]["offered"]["digest"] == str(OFFERED.digest)
        assert shown["history"][0]["kind"] == "pinned"
        assert (await client.get("/api/v1/pins/alpine:0"))[1]["drift"] is None
        assert (await client.get("/api/v1/pins/alpine:none"))[0] == 404


async def test_who_pulled_a_pin() -> None:
    """One pin tells how often, by how many and by whom last it was pulled; or that it was not, or why nobody knows."""
    use = Use(REFERENCES[0].repository, REFERENCES[0].tag, DESCRIPTOR.digest, "10.0.0.1", NOW, NOW, 3)
    nothing: dict[str, Any] = {"count": 0, "clients": 0, "first": None, "last": None, "newest": [], "unreadable": None}
    at = "2026-11-22T03:00:00+00:00"
    told = {"wanted": "0", "client": "10.0.0.1", "digest": str(DESCRIPTOR.digest), "count": 3, "first": at, "last": at}
    summary = {"count": 4, "clients": 2, "first": at, "last": at, "newest": [told], "unreadable": None}
    for used, expected in (
        (NotUsed(), nothing),
        (Used(NOW, NOW, 4, 2, (use,)), summary),
        (UsesUnreadable("locked"), {**nothing, "count": None, "clients": None, "unreadable": "locked"}),
    ):
        async with face(FakeRooms(used=used)) as client:
            assert expected == (await client.get("/api/v1/pins/alpine:0"))[1]["used"]


async def test_drift_in_pages() -> None:
    """The tags under drift, sorted, in pages."""
    async with face(FakeRooms()) as client:
        first = (await client.get("/api/v1/drift?limit=1"))[1]
        second = (await client.get(f"/api/v1/drift?limit=1&after={first['next']}"))[1]
    assert [each["reference"] for each in first["drifts"] + second["drifts"]] == [str(each) for each in REFERENCES[3:]]
    assert second["next"] is None


async def test_bad_questions() -> None:
    """Malformed input is 400 in JSON, an unknown path 404, a write 405."""
    async with face(FakeRooms()) as client:
        for path in (
            "pins?limit=0",
            "pins?limit=x",
            "pins?limit=1001",
            "pins?after=:",
            f"pins/alpine@{DESCRIPTOR.digest}",
        ):
            status, body = await client.get(f"/api/v1/{path}")
            assert (status, bool(body["errors"])) == (400, True), path
        assert (await client.get("/v2/"))[0] == 404
        async with client.session.post(client.base + "/api/v1/pins") as answer:
            assert answer.status == 405


async def test_probes_show_no_api() -> None:
    """The probes face has health and metrics only."""
    admin = AdminFace(FakeRooms(), Metrics.open(None))
    async with serving_app(admin.probes()) as client:
        assert (await client.get("/healthz"))[0] == 200
        assert (await client.get("/metrics"))[0] == 200
        assert (await client.get("/api/v1/pins"))[0] == 404


async def test_metrics() -> None:
    """Counters of answers and the state of store and ledger, in Prometheus's text."""
    metrics, rooms = Metrics.open(None), FakeRooms()
    metrics.answered(kind="blob", upstream="docker.io", status=206, outcome="sent", cache="hit", sent=10, seconds=0.2)
    async with serving_app(AdminFace(rooms, metrics).application()) as client:
        text = (await client.get("/metrics"))[1]
        await client.get("/metrics")
    expected = 'iarproxy_requests_total{cache="hit",kind="blob",outcome="sent",status="2xx",upstream="docker.io"} 1.0'
    for line in (
        expected,
        'iarproxy_sent_bytes_total{kind="blob"} 10.0',
        "iarproxy_store_bytes 300",
        "iarproxy_drifted_tags 2",
        "iarproxy_recalled_digests 3",
    ):
        assert line in text.splitlines()
    assert rooms.counted == 1


def test_many_answers_count_at_once() -> None:
    """Answers of the fast lane are counted by the number, bytes and all; how long they took is not observed."""
    metrics = Metrics.open(None)
    metrics.answered_many(kind="manifest", upstream="docker.io", cache="hit", count=1000, sent=52_000)
    lines = metrics.render({}).decode().splitlines()
    labels = 'cache="hit",kind="manifest",outcome="sent",status="2xx",upstream="docker.io"'
    assert f"iarproxy_requests_total{{{labels}}} 1000.0" in lines
    assert 'iarproxy_sent_bytes_total{kind="manifest"} 52000.0' in lines
    assert [] == [line for line in lines if line.startswith("iarproxy_request_seconds_count")]


CHILD = """
import sys
from pathlib import Path
from iarproxy.metrics import Metrics
metrics = Metrics.open(Path(sys.argv[1]))
metrics.answered(kind="ping", upstream="", status=200, outcome="sent", cache="", sent=2, seconds=0.1)
print(metrics.render({}).decode())
"""


def test_metrics_of_all_workers_are_one(tmp_path: Path) -> None:
    """Processes that share the folder count together, the ended ones too; the environment is not read."""
    clean = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    texts = [
        subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path)], env=clean, check=True, capture_output=True, text=True
        )
        for _ in range(2)
    ]
    assert 'iarproxy_sent_bytes_total{kind="ping"} 2.0' in texts[0].stdout
    assert 'iarproxy_sent_bytes_total{kind="ping"} 4.0' in texts[1].stdout
    assert all(each.stat().st_blocks * 512 >= each.stat().st_size for each in tmp_path.iterdir())
    forget(tmp_path, 1)
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_metrics_where_the_disk_is_full(tmp_path: Path) -> None:
    """Rule 3: a worker whose counters cannot be shared counts for itself; it is not killed by its own memory map."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        (tmp_path / "others").write_bytes(bytes(60_000))
        ran = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
        )
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert 'iarproxy_sent_bytes_total{kind="ping"} 2.0' in ran.stdout


async def _standings() -> list[UpstreamStanding]:
    quota = Quota(76, 100, 21600.0, NOW.timestamp(), "203.0.113.7")
    hub = Standing("https://registry-1.docker.io", quota, NOW, None, "", None)
    dead = Standing("https://quay.io", None, None, NOW, "no connection", 2.5)
    spenders = tuple(Spender(f"library/{number}", {"manifest": 30 - number, "blob": 1}) for number in range(25))
    return [
        UpstreamStanding("docker.io", (hub,), spenders, under_way=3, waiting=4, floor=10),
        UpstreamStanding("quay.io", (dead,), (), under_way=0, waiting=0, floor=10),
    ]


async def test_upstreams() -> None:
    """What is left of each, why it is not asked now, who spends it: the first of them by name, the rest as a sum."""
    async with face(FakeRooms(), standings=_standings) as client:
        status, told = await client.get("/api/v1/upstreams")
    assert 200 == status
    hub, quay = told["upstreams"]
    assert ("docker.io", 10, 3, 4) == (hub["upstream"], hub["budget_floor"], hub["under_way"], hub["waiting"])
    endpoint = hub["endpoints"][0]
    assert (76, 100, "203.0.113.7") == tuple(endpoint["quota"][key] for key in ("remaining", "limit", "counted"))
    assert NOW == datetime.fromisoformat(endpoint["held_until"])
    first = {"repository": "library/0", "requests": 31, "kinds": {"manifest": 30, "blob": 1}}
    assert (20, first) == (len(hub["spenders"]), hub["spenders"][0])
    assert {"count": 5, "requests": sum(31 - number for number in range(20, 25))} == hub["other_spenders"]
    assert ("no connection", 2.5) == (quay["endpoints"][0]["reason"], quay["endpoints"][0]["probe_in"])


async def test_budgets_are_metrics() -> None:
    """Gauges by upstream, and never by repository."""
    async with face(FakeRooms(), standings=_standings) as client:
        _, text = await client.get("/metrics")
    lines = text.splitlines()
    for expected in (
        "# TYPE iarproxy_upstream_quota_remaining gauge",
        'iarproxy_upstream_quota_remaining{upstream="docker.io"} 76',
        'iarproxy_upstream_quota_limit{upstream="docker.io"} 100',
        'iarproxy_upstream_held{upstream="docker.io"} 1',
        'iarproxy_upstream_down{upstream="quay.io"} 1',
    ):
        assert 1 == lines.count(expected), expected
    assert "library/" not in text


def test_what_upstreams_were_spared_is_counted() -> None:
    """By upstream, and by kind or reason."""
    metrics = Metrics.open(None)
    metrics.spent("docker.io", "manifest")
    metrics.turned_away("docker.io", "held")
    metrics.remembered("docker.io")
    text = metrics.render({}).decode()
    for expected in (
        'iarproxy_upstream_spent_total{kind="manifest",upstream="docker.io"} 1.0',
        'iarproxy_upstream_refused_total{reason="held",upstream="docker.io"} 1.0',
        'iarproxy_upstream_remembered_total{upstream="docker.io"} 1.0',
    ):
        assert expected in text


async def test_names_without_a_registry_mean_the_same_as_for_clients(tmp_path: Path) -> None:
    """The API reads `app:1` as clients and commands do: of the default upstream that is configured."""
    async with whole(tmp_path, server={"default_upstream": OTHER}) as made:
        made.upstream.content.publish("app", "1", small_image())
        pinned = await made.rooms.mirror.manifest(Repository.of(OTHER, "app"), Tag("1"))
        explain = made.rooms.mirror.explain.reference
        admin = AdminFace(made.rooms, made.metrics, explain=explain, registry=OTHER)
        async with serving_app(admin.application()) as client:
            told = [await client.get(f"/api/v1/{path}") for path in ("explain/app:1", "pins/app:1", "pins?after=app:0")]
    assert [200] * 3 == [status for status, _ in told]
    assert str(pinned.descriptor.digest) == told[0][1]["digest"] == told[1][1]["descriptor"]["digest"]
    assert [f"{OTHER}/app:1"] == [each["reference"] for each in told[2][1]["pins"]]


async def test_where_a_name_stands(tmp_path: Path) -> None:
    """The API tells what `iarproxy explain` tells, of an environment too."""
    section = {"prod": {"path_prefix": "prod", "pins_from": "promotion"}}
    async with whole(tmp_path, environments=section) as made:
        made.upstream.content.publish("library/app", "1", small_image())
        await made.ask("/v2/app/manifests/1")
        explain = made.rooms.mirror.explain.reference
        admin = AdminFace(made.rooms, made.metrics, explain=explain, environments=["prod"])
        async with serving_app(admin.application()) as client:
            told = [(await client.get(f"/api/v1/explain/app:1{query}"))[1] for query in ("", "?environment=prod")]
            wrong = await client.get("/api/v1/explain/app:1?environment=other")
    assert ["default", "prod"] == [each["environment"] for each in told]
    assert ["the pinned digest", []] == [told[0]["outcome"], told[0]["blocked"]]
    assert "iarproxy promote" in told[1]["changes"][0]
    assert 404 == wrong[0]
