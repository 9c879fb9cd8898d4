"""Who pulled what, as people are told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from iarproxy.cli.pulled import pulls
from iarproxy.ledger import NotUsed, Use, Used, Uses, UseSummary, UsesUnreadable
from iarproxy.oci import Digest, Repository, Tag
from test_commands import REFERENCE, Machine, machine

__all__ = ["machine"]

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
APP = Repository("registry.example.com", "team/app")


def use(client: str | None, at: datetime = NOW, count: int = 1) -> Use:
    return Use(APP, Tag("1"), Digest.of(b"x"), client, at, at, count)


def test_the_line_for_people() -> None:
    """Never empty: when last, how often, by whom; nobody yet; clients not recorded; not readable, and why."""
    later = NOW + timedelta(minutes=5)
    two = Used(NOW, later, 7, 2, (use("10.0.0.2", later), use("10.0.0.1")))
    expected: dict[str, UseSummary] = {
        "not pulled yet, or not in the last 90 days": NotUsed(),
        "not known now: uses.db is damaged": UsesUnreadable("uses.db is damaged"),
        "once, 2026-11-22 03:00:00Z, by 1 client: 10.0.0.1 2026-11-22 03:00:00Z": Used(
            NOW, NOW, 1, 1, (use("10.0.0.1"),)
        ),
        "7 times since 2026-11-22 03:00:00Z, last 2026-11-22 03:05:00Z, by 2 clients: "
        "10.0.0.2 2026-11-22 03:05:00Z, 10.0.0.1 2026-11-22 03:00:00Z": two,
        "2 times since 2026-11-22 03:00:00Z, last 2026-11-22 03:05:00Z, by 1 client: "
        "10.0.0.1 2026-11-22 03:05:00Z": Used(NOW, later, 2, 1, (use("10.0.0.1", later), use("10.0.0.1"))),
        "once, 2026-11-22 03:00:00Z; clients are not recorded": Used(NOW, NOW, 1, 0, (use(None),)),
    }
    assert list(expected) == [pulls(used) for used in expected.values()]


async def _record(file: Path, recorded: Use) -> None:
    uses = Uses(file, lambda: recorded.last)
    await uses.record([recorded])
    await uses.close()


def test_explain_and_show_tell_who_pulled(machine: Machine) -> None:
    """Before the first pull both say so; then who it was, in text and in JSON."""
    machine.publish(1)
    machine.run("pull", REFERENCE)
    assert "used  not pulled yet" in machine.run("explain", REFERENCE).out
    now = datetime.now(UTC).replace(microsecond=0)
    asyncio.run(_record(machine.folder / "store" / "uses.db", use("10.0.0.1", now, 3)))
    for command in (("explain",), ("pins", "show")):
        assert "by 1 client: 10.0.0.1" in machine.run(*command, REFERENCE).out
        told = machine.run(*command, REFERENCE, "--json").json["used"]
        assert (3, 1, now) == (told["count"], told["clients"], datetime.fromisoformat(told["last"]))
        assert ["10.0.0.1"] == [each["client"] for each in told["newest"]]
