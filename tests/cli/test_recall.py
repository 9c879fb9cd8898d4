"""`iarproxy recall` as a person runs it."""

from __future__ import annotations

import pytest

from iarproxy.oci import Digest
from images import index, small_image
from test_commands import REFERENCE, Machine, machine

__all__ = ["machine"]
NEVER = str(Digest.of(b"never seen here"))


def test_a_recall_is_made_told_listed_and_undone(machine: Machine) -> None:
    """It holds for `pull` at once, a second one changes nothing, and undoing it needs it to stand."""
    digest = machine.publish(1)
    assert 0 == machine.run("pull", REFERENCE).code
    made = machine.run("recall", digest, "--reason", "malware\x1b[31m in it")
    assert (0, "") == (made.code, made.err)
    assert "malware [31m in it" in made.out
    assert "It holds from now on" in made.out
    assert REFERENCE in made.out
    refused = machine.run("pull", REFERENCE)
    assert 1 == refused.code
    assert "was recalled at" in refused.err
    again = machine.run("recall", digest, "--reason", "twice", "--json")
    assert (0, [], [digest]) == (again.code, again.json["made"], [each["digest"] for each in again.json["stood"]])
    assert [REFERENCE] == [each["reference"] for each in again.json["tags"]]
    listed = machine.run("recall", "--list", "--json").json["recalls"]
    assert [(digest, "malware\x1b[31m in it")] == [(each["digest"], each["reason"]) for each in listed]
    assert digest in machine.run("recall", "--list").out
    undone = machine.run("recall", "--undo", digest, "--reason", "false alarm")
    assert (0, True) == (undone.code, "serves it again" in undone.out)
    assert 0 == machine.run("pull", REFERENCE).code
    twice = machine.run("recall", "--undo", digest, "--reason", "false alarm")
    assert (1, True) == (twice.code, "is not recalled" in twice.err)
    assert 0 == machine.run("ledger", "verify").code


def test_a_digest_that_was_never_seen_can_be_recalled(machine: Machine) -> None:
    """A recall may come before the content; what leads to it is nothing yet."""
    made = machine.run("recall", NEVER, "--reason", "advisory 7", "--children", "--json")
    assert (0, [NEVER], []) == (made.code, [each["digest"] for each in made.json["made"]], made.json["tags"])
    assert "not held here" in made.err
    shown = machine.run("recall", "--pullers", NEVER)
    assert (0, True) == (shown.code, "advisory 7" in shown.out)


def test_a_recalled_digest_is_not_repinned_to(machine: Machine) -> None:
    """`pins repin` refuses it, and says why."""
    old = machine.publish(1)
    assert 0 == machine.run("pull", REFERENCE).code
    new = machine.publish(2)
    assert 0 == machine.run("recall", new, "--reason", "advisory 7").code
    refused = machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, "--reason", "newer")
    assert (1, True) == (refused.code, "advisory 7" in refused.err)


def test_an_index_is_recalled_alone_or_with_what_is_below_it(machine: Machine) -> None:
    """Alone, what is below it is still served by digest, and that is said; --children takes it too, and lets it go."""
    children = [small_image(number, platform=each) for number, each in enumerate(("linux/amd64", "linux/arm64"))]
    top = machine.registry.registry.content.publish("team/app", "1", index(children))
    below = {str(each.digest) for each in children}
    by_digest = f"registry.example.com/team/app@{children[0].digest}"
    assert 0 == machine.run("pull", REFERENCE).code
    alone = machine.run("recall", str(top.digest), "--reason", "malware", "--json")
    assert (below, True) == (set(alone.json["children_served"]), "2 manifests are still served" in alone.err)
    assert (1, 0) == (machine.run("pull", REFERENCE).code, machine.run("pull", by_digest).code)
    both = machine.run("recall", str(top.digest), "--children", "--reason", "malware", "--json").json
    assert below == {each["digest"] for each in both["made"]}
    assert {str(top.digest)} == {each["with"] for each in both["made"]}
    assert 1 == machine.run("pull", by_digest).code
    undone = machine.run("recall", "--undo", str(top.digest), "--children", "--reason", "false alarm", "--json").json
    assert {str(top.digest), *below} == {each["digest"] for each in undone["undone"]}
    assert (0, 0) == (machine.run("pull", REFERENCE).code, machine.run("pull", by_digest).code)
    undo = ("recall", "--undo", str(top.digest), "--reason", "false alarm")
    machine.run("recall", str(top.digest), "--children", "--reason", "malware")
    assert "stay so; --children lets them go too" in machine.run(*undo).out
    assert (0, 0) == (machine.run(*undo, "--children").code, machine.run("pull", by_digest).code)
    assert 1 == machine.run(*undo, "--children").code


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("alpine:3.20", "--reason", "why"),
        (NEVER,),
        (NEVER, "--reason", " "),
        (NEVER, "--reason", "x" * 1001),
        ("--list", "--undo", NEVER, "--reason", "why"),
    ],
)
def test_usage(machine: Machine, arguments: tuple[str, ...]) -> None:
    """What cannot be meant is one line and exit code 2."""
    ended = machine.run("recall", *arguments)
    assert (2, 1) == (ended.code, len(ended.err.splitlines()))
