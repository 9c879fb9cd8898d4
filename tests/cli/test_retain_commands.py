"""Retention and leases as a person runs them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from iarproxy.ledger import EventKind, Use, Uses, rebuild
from iarproxy.ledger.journal import Entry, Head
from iarproxy.oci import Digest, Repository, Tag
from test_commands import REFERENCE, Machine, machine

__all__ = ["machine"]

RULES = """
[[retention]]
action = "delete"
match = "registry.example.com/**"
pinned_age = "0s"
unused_for = "0s"
[[retention]]
action = "keep"
match = "**:stable"
"""


async def _used_before(file: Path) -> None:
    """Uses are known since two days ago."""
    then = datetime.now(UTC) - timedelta(days=2)
    uses = Uses(file, lambda: then)
    await uses.record([Use(Repository("registry.example.com", "x"), Tag("x"), Digest.of(b"x"), None, then, then, 1)])
    await uses.close()


def rules(machine: Machine, text: str = RULES) -> None:
    file = Path(machine.environment["IARPROXY_CONFIG"])
    file.write_text(file.read_text() + text)


def test_without_rules_nothing_is_planned(machine: Machine) -> None:
    """The error says what to write; one of --plan and --apply is needed."""
    machine.publish(1)
    machine.run("pull", REFERENCE)
    refused = machine.run("pins", "retain", "--plan", "plan.json")
    assert (1, True) == (refused.code, "[[retention]]" in refused.err)
    assert 2 == machine.run("pins", "retain").code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('action = "delete"\nmatch = "**"', "needs pinned_age, unused_for or state"),
        ('action = "delete"\nmatch = "**"\nunused_for = "90d"', "write at most 85d"),
        ('action = "keep"\nmatch = "**"\npinned_age = "9d"', 'pinned_age belongs to action = "delete"'),
        ('action = "delete"\nmatch = "**"\npinned_age = "9d"\ncount = 3', 'count belongs to action = "keep"'),
        ('action = "keep"\nmatch = "**"\nby = "semver"', "by needs count"),
        ('action = "keep"\nmatch = "**"\nsemver = "newest"', "not a range of versions"),
        ('action = "keep"\nmatch = "**"\nenvironment = "prd"', "retention.0.environment names 'prd', which is none"),
        ('action = "remove"\nmatch = "**"', "retention.0.action"),
    ],
)
def test_rules_that_are_none(machine: Machine, text: str, expected: str) -> None:
    """Each mistake is one line."""
    rules(machine, f"[[retention]]\n{text}\n")
    refused = machine.run("check-config")
    assert (1, True, 1) == (refused.code, expected in refused.err, len(refused.err.splitlines())), refused.err


async def test_a_plan_is_executed(machine: Machine) -> None:
    """Pinned yesterday and not used: planned, approved by its hash, gone; what a rule or a lease keeps stays."""
    for seed, tag in enumerate(("1", "2", "stable")):
        machine.publish(seed, tag)
    pulled = machine.run("pull", *(REFERENCE[:-1] + tag for tag in ("1", "2", "stable")), "--json").json["pulled"]
    await _used_before(machine.folder / "store" / "uses.db")
    await _yesterday(machine.folder / "store")
    rules(machine)
    made = machine.run("pins", "retain", "--plan", "plan.json")
    assert 0 == made.code, made.err
    data = (machine.folder / "plan.json").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert (0, True) == (made.code, f"sha256 {digest}" in made.err), made.err
    assert [REFERENCE, REFERENCE[:-1] + "2"] == [item["reference"] for item in json.loads(data)["items"]]
    assert data == machine.run("pins", "retain", "--plan", "-").out.encode()
    assert {"action": "keep", "match": "**:stable"} == json.loads(data)["rules"][-1]
    assert 0 == machine.run("pins", "retain", "--plan", "plan.json").code
    other = machine.run("pins", "retain", "--plan", "iarproxy.toml")
    assert (1, True) == (other.code, "something else than a plan" in other.err)

    (machine.folder / "iar.lock").write_text(f"# iar.lock 1\n{REFERENCE}@{pulled[0]['digest']}\n")
    leased = machine.run("lease", "set", "prod", "--lock", "iar.lock", "--for", "1d")
    assert (0, True) == (leased.code, "protects 1 digests" in leased.out), leased.err
    assert 1 == machine.run("pins", "retain", "--apply", "plan.json", "--sha256", "0" * 64).code
    done = machine.run("pins", "retain", "--apply", "plan.json", "--sha256", digest, "--reason", "spring", "--json")
    assert (["2"], {"1": "the lease prod names it"}) == (
        [each["reference"].rpartition(":")[2] for each in done.json["gone"]],
        {each["reference"].rpartition(":")[2]: each["why"] for each in done.json["stayed"]},
    ), done.err
    assert {"1", "stable"} == {
        pin["reference"].rpartition(":")[2] for pin in machine.run("pins", "list", "--json").json["pins"]
    }
    event = machine.run("pins", "history", REFERENCE[:-1] + "2", "--json").json[-1]
    assert ("retired", "spring", digest) == (event["kind"], event["reason"], event["body"]["plan"])
    again = machine.run("pins", "retain", "--apply", "plan.json")
    assert "0 names went, 2 stay. Names only: no content was removed." in again.out
    assert 0 == machine.run("pull", REFERENCE[:-1] + "2").code

    assert ["prod"] == [each["name"] for each in machine.run("lease", "list", "--json").json["leases"]]
    assert 0 == machine.run("lease", "end", "prod").code
    assert "There are no leases" in machine.run("lease", "list").out
    assert 2 == machine.run("lease", "set", "x", "--lock", "iar.lock", "--for", "long").code


async def _yesterday(store: Path) -> None:
    """Pins of today are no day old at the day's beginning: let the journal tell that it all happened a day earlier."""
    head, lines = Head(), list[bytes]()
    for line in (store / "journal.jsonl").read_bytes().splitlines():
        old = Entry.from_line(line)
        assert old is not None
        at, kind = datetime.fromisoformat(old.at) - timedelta(days=1), EventKind(old.kind)
        entry = Entry.made(head, at, kind, old.reference, actor=old.actor, revision=old.revision, body=old.document())
        lines.append(entry.line())
        head = entry.head
    (store / "journal.jsonl").write_bytes(b"".join(lines))
    (store / "ledger.db").unlink()
    identity = json.loads((store / "store.json").read_bytes())["identity"]
    await rebuild(store / "ledger.db", store_identity=identity, actor="test", reason="yesterday")
