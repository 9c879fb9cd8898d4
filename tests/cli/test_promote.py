"""`iarproxy promote` as a person runs it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ended import Ended
from iarproxy.oci import Digest
from iarproxy.trust.signing import public_keys
from test_commands import REFERENCE, Machine, a_machine

TO = ("--to", "prod", "--reason", "release 7")
NEVER = str(Digest.of(b"never"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with a_machine(tmp_path) as made:
        configure(made, '[environments.staging]\nhosts = ["staging.example"]\npins_from = "promotion"\n')
        configure(made, '[environments.locked]\nhosts = ["locked.example"]\npins_from = "lock"\n')
        configure(made, '[environments.prod]\nhosts = ["prod.example"]\npins_from = "promotion"\n')
        yield made


def configure(machine: Machine, text: str) -> None:
    with (machine.folder / "iarproxy.toml").open("a") as file:
        file.write(text)


def pinned(machine: Machine, seed: int, tag: str = "1") -> str:
    """An image that is pinned in the default environment; its digest."""
    published = machine.publish(seed, tag)
    assert 0 == machine.run("pull", REFERENCE.replace(":1", f":{tag}")).code
    return published


def stands_for(machine: Machine, environment: str = "prod") -> str:
    shown = machine.run("pins", "show", REFERENCE, "--env", environment, "--json")
    return str(shown.json["descriptor"]["digest"]) if shown.code == 0 else ""


def is_refused(ended: Ended, code: int, *says: str) -> None:
    assert code == ended.code, ended.err
    assert [] == [each for each in says if each not in ended.err]


@pytest.mark.timeout(600)
def test_the_life_of_a_name(machine: Machine) -> None:
    """It is promoted, unchanged, not moved, moved, and rolled back; history tells all of it."""
    old = pinned(machine, 1)
    done = machine.run("promote", REFERENCE, *TO)
    assert (0, "") == (done.code, done.err)
    assert "1 name promoted from default to prod, by" in done.out
    assert old == stands_for(machine)

    again = machine.run("promote", REFERENCE, *TO)
    assert (0, True) == (again.code, "unchanged" in again.out)

    new = machine.publish(2)
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, "--reason", "newer").code
    is_refused(machine.run("promote", REFERENCE, *TO), 1, f"stands for {old} in prod already", f"--replace {old}")
    is_refused(machine.run("promote", REFERENCE, *TO, "--replace", NEVER), 1, f"not for {NEVER}")
    assert old == stands_for(machine)
    assert 0 == machine.run("promote", REFERENCE, *TO, "--replace", old).code
    assert new == stands_for(machine)

    back = machine.run("pins", "rollback", REFERENCE, "--env", "prod", "--reason", "broken")
    assert (0, "") == (back.code, back.err)
    assert old == stands_for(machine)
    events = machine.run("pins", "history", REFERENCE, "--env", "prod", "--json").json
    assert ["promoted", "promoted", "rolled-back"] == [event["kind"] for event in events]
    assert ["default", "default"] == [event["body"]["from"] for event in events[:2]]
    assert 0 == machine.run("ledger", "verify").code


@pytest.mark.timeout(600)
def test_a_plan_and_its_execution(machine: Machine) -> None:
    """What a dry run prints is what is carried out, over two environments, though the source moves on."""
    first, second = pinned(machine, 1), pinned(machine, 2, "2")
    pattern = "registry.example.com/team/*:*"
    planned = machine.run("promote", pattern, "--to", "staging", "--dry-run", "--json")
    assert (0, True, []) == (planned.code, planned.json["possible"], planned.json["promoted"])
    execute = [step["execute"] for step in planned.json["steps"]]
    assert [f"{REFERENCE}@{first}", f"{REFERENCE.replace(':1', ':2')}@{second}"] == execute
    assert "" == stands_for(machine, "staging")
    assert 0 == machine.run("promote", *execute, "--to", "staging", "--reason", "release 7").code
    done = machine.run("promote", pattern, "--from", "staging", *TO, "--json").json
    assert (2, ["new", "new"]) == (len(done["promoted"]), [step["outcome"] for step in done["steps"]])

    moved = machine.publish(3)
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", first, "--to", moved, "--reason", "newer").code
    is_refused(machine.run("promote", *execute, "--to", "staging", "--reason", "late"), 1, "plan it anew")
    replaced = machine.run("promote", pattern, "--to", "staging", "--reason", "8", "--replace", f"{REFERENCE}={first}")
    assert (0, moved) == (replaced.code, stands_for(machine, "staging"))


@pytest.mark.timeout(600)
def test_gates_by_their_configuration(machine: Machine) -> None:
    """All that refuse are told, with exit code 1; what cannot be asked is 4; nothing changes either way."""
    pinned(machine, 1)
    gate = machine.folder / "gate"
    gate.write_text("#!/bin/sh\necho two findings\necho one is high\nexit 1\n")
    gate.chmod(0o755)
    file = machine.folder / "iarproxy.toml"
    plain = file.read_text()
    section = f'{plain}[environments.prod.gates]\ncommand = ["{gate}"]\n'
    file.write_text(f'{section}min_age = "72h"\n')
    refused = machine.run("promote", REFERENCE, *TO)
    is_refused(refused, 1, "min_age: ", "command: two findings; command: one is high")
    gate.write_text("#!/bin/sh\nexit 0\n")
    file.write_text(f'{section}policy_url = "http://127.0.0.1:1/v1/data/allow"\ntimeout = "5s"\n')
    is_refused(machine.run("promote", REFERENCE, *TO), 4, "policy: environments.prod.gates.policy_url")
    assert "" == stands_for(machine)
    file.write_text(section)
    done = machine.run("promote", REFERENCE, *TO, "--json").json
    assert [{"gate": "command", "verdict": "allowed", "reasons": []}] == done["steps"][0]["gates"]


def test_what_cannot_be_had(machine: Machine) -> None:
    """With upstream gone and layers missing the command ends with 4, unless a part will do."""
    machine.publish(1)
    machine.registry.act("add_fault", pattern="*/blobs/*", fault={"status": 503})
    machine.run("pull", REFERENCE)
    is_refused(machine.run("promote", REFERENCE, *TO), 4, "would not be served with upstream gone", "--partial")
    assert 0 == machine.run("promote", REFERENCE, *TO, "--partial").code


def test_the_public_key(machine: Machine) -> None:
    """It is printed as PEM, is the same each time, and its private half is the owner's alone."""
    pinned(machine, 1)
    first, second = machine.run("promote", "--public-key"), machine.run("promote", "--public-key")
    assert (0, first.out) == (second.code, second.out)
    assert 1 == len(public_keys(first.out.encode()))
    assert 0o600 == (machine.folder / "store" / "promotion.key").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "at least one REF"),
        ([REFERENCE], 2, "--to is missing"),
        ([REFERENCE, "--to", "prod"], 2, "--reason is missing"),
        ([REFERENCE, "--to", "nowhere", "--reason", "x"], 2, "no such environment"),
        ([REFERENCE, "--to", "prod", "--from", "prod", "--reason", "x"], 2, "both name prod"),
        ([REFERENCE, "--to", "locked", "--reason", "x"], 1, "iarproxy lock import"),
        ([f"registry.example.com/team/app@{NEVER}", *TO], 1, "has no pin in default"),
        ([REFERENCE, *TO], 1, "has no pin in default"),
        (["registry.example.com/**", *TO], 1, "fits no name of default"),
        ([f"{REFERENCE}@sha256:1", *TO], 2, "digest"),
        ([REFERENCE, f"{REFERENCE}@{NEVER}", *TO], 2, "named twice"),
        ([REFERENCE, "a:1", *TO, "--replace", NEVER], 2, "which of the 2 names"),
        ([REFERENCE, *TO, "--replace", f"a:1={NEVER}"], 2, "not among the names"),
    ],
)
def test_a_wrong_command_is_one_line(machine: Machine, arguments: list[str], code: int, says: str) -> None:
    """Each mistake gets one line that says what it was, and its exit code."""
    ended = machine.run("promote", *arguments)
    is_refused(ended, code, says)
    assert 1 == len(ended.err.splitlines())
