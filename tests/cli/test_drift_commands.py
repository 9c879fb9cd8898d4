"""`iarproxy drift`: what a person sees of a drift, and how it is settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from test_commands import REFERENCE, Machine, a_machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with a_machine(tmp_path) as made:
        yield made


def test_a_drift_is_seen_and_settled(machine: Machine) -> None:
    """List, show, acknowledge: each command says what it should, and the exit codes tell scripts."""
    old = machine.publish(1)
    assert 0 == machine.run("pull", REFERENCE).code
    nothing = machine.run("drift", "show", REFERENCE)
    assert (1, True) == (nothing.code, "no drift" in nothing.err)
    new = machine.publish(2)
    assert "1 layer replaced" in machine.run("drift", "check").out
    assert 3 == machine.run("drift", "list", "--exit-code").code

    full = machine.run("drift", "show", REFERENCE, "--json").json
    assert (old, new) == (full["evidence"]["pinned"]["digest"], full["evidence"]["offered"]["digest"])
    assert full["summary"] == full["evidence"]["summary"]
    shown = machine.run("drift", "show", REFERENCE).out
    command = next(each for each in shown.splitlines() if "drift ack" in each).partition("#")[0]
    assert f"iarproxy drift ack {REFERENCE} --digest {new} --reason TEXT" == command.strip()

    for wrong, code in ((["--digest", old, "--reason", "typo"], 1), (["--digest", new, "--reason", " "], 2)):
        refused = machine.run("drift", "ack", REFERENCE, *wrong)
        assert code == refused.code, refused.err
    assert 0 == machine.run("drift", "ack", REFERENCE, "--digest", new, "--reason", "a rebuild").code
    assert 0 == machine.run("drift", "list", "--exit-code").code
    [listed] = machine.run("drift", "list", "--json").json["drifts"]
    assert ("drifted", "a rebuild") == (listed["verdict"], listed["acknowledged"]["reason"])
    assert 0 == machine.run("drift", "check", "--exit-code").code
    machine.publish(3)
    assert 3 == machine.run("drift", "check", "--exit-code").code
    assert 2 == machine.run("drift", "list", "--env", "nowhere").code
