"""Acts on pins as a person does them: a command, its output, its exit code, and what it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ended import Ended
from iarproxy.oci import Digest
from test_commands import REFERENCE, Machine, a_machine

REASON = ("--reason", "ticket 4711")
NEVER = str(Digest.of(b"never"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with a_machine(tmp_path) as made:
        with (tmp_path / "iarproxy.toml").open("a") as file:
            file.write(
                '[[tags]]\nmatch = "**:new*"\ncool_down = "72h"\n[[tags]]\nmatch = "**:slow"\nadmit = "approved"\n'
                '[[tags]]\nmatch = "**:moving"\nmode = "follow"\n'
                '[environments.prod]\nhosts = ["prod.example"]\npins_from = "promotion"\n'
                '[environments.locked]\nhosts = ["locked.example"]\npins_from = "lock"\n'
                '[environments.dev]\nhosts = ["dev.example"]\npins_from = "first-fetch"\n'
            )
        yield made


def _named(tag: str) -> str:
    return REFERENCE.replace(":1", f":{tag}")


def _pinned(machine: Machine, *options: str, tag: str = "1") -> str:
    shown = machine.run("pins", "show", _named(tag), "--json", *options)
    assert shown.code == 0, shown.err
    return str(shown.json["descriptor"]["digest"])


def _is_refused(ended: Ended, *says: str) -> None:
    assert (1, "") == (ended.code, ended.out)
    assert [] == [each for each in says if each not in ended.err]
    assert 1 == ended.err.count("\n")


def test_back_and_forth_with_upstream_gone(machine: Machine) -> None:
    """Repin, then roll back: the old digest is on disk, so nobody is asked; where to is named, and it goes there."""
    old = machine.publish(1)
    assert 0 == machine.run("pull", REFERENCE).code
    new = machine.publish(2)
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, *REASON).code
    machine.registry.act("stop")
    for expected, options in ((old, ()), (new, ("--to", new)), (old, ("--to", old, "--from", new))):
        done = machine.run("pins", "rollback", REFERENCE, *options, *REASON)
        assert (0, "") == (done.code, done.err)
        assert expected in done.out
        assert expected == _pinned(machine)
    events = machine.run("pins", "history", REFERENCE, "--json").json
    assert ["pinned", "repinned", *["rolled-back"] * 3] == [each["kind"] for each in events]
    assert {"ticket 4711"} == {each["reason"] for each in events[1:]}


def test_two_people_roll_back_once(machine: Machine) -> None:
    """Who rolls back what was rolled back already does not bring the bad release back, nor does a stale --from."""
    good = machine.publish(1)
    machine.run("pull", REFERENCE)
    bad = machine.publish(2)
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", good, "--to", bad, *REASON).code
    _is_refused(machine.run("pins", "rollback", REFERENCE, "--from", good, *REASON), f"pinned to {bad}", good)
    assert 0 == machine.run("pins", "rollback", REFERENCE, *REASON).code
    _is_refused(machine.run("pins", "rollback", REFERENCE, *REASON), "rolled back already", "--to", bad)
    _is_refused(machine.run("pins", "rollback", REFERENCE, "--from", bad, *REASON), f"pinned to {good}")
    assert good == _pinned(machine)


def test_the_history_tells_each_digest_in_a_line(machine: Machine) -> None:
    """What a rollback wants to be named is there in full, and no reason steers the terminal of who reads it."""
    old = machine.publish(1)
    machine.run("pull", REFERENCE)
    new = machine.publish(2)
    repin = ("pins", "repin", REFERENCE, "--from", old, "--to", new, "--reason", "one\ntwo\x1b[31m")
    assert 0 == machine.run(*repin).code
    told = machine.run("pins", "history", REFERENCE).out
    assert 3 == told.count("\n")
    assert f"{new}, previous {old}; one two [31m" in told


def test_acts_name_what_they_change(machine: Machine) -> None:
    """A stale --from, a digest that the tag never was, a wrong --digest: refused, naming what is so."""
    old = machine.publish(1)
    machine.run("pull", REFERENCE)
    new = machine.publish(2)
    _is_refused(machine.run("pins", "repin", REFERENCE, "--from", new, "--to", old, *REASON), f"pinned to {old}")
    _is_refused(machine.run("pins", "rollback", REFERENCE, *REASON), "never was another digest")
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, *REASON).code
    _is_refused(machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, *REASON), f"pinned to {new}")
    _is_refused(machine.run("pins", "rollback", REFERENCE, "--to", NEVER, *REASON), NEVER, old, "pins repin")
    _is_refused(machine.run("pins", "remove", REFERENCE, "--digest", old, *REASON), f"pinned to {new}")
    again = machine.run("pins", "approve", REFERENCE, "--digest", old, *REASON)
    _is_refused(again, f"iarproxy pins repin {REFERENCE} --from {new} --to {old}")
    assert new == _pinned(machine)


def test_a_removed_tag_awaits_approval(machine: Machine) -> None:
    """After `remove` a pull is refused with the command that brings the tag back; that command does."""
    digest = machine.publish(1)
    machine.run("pull", REFERENCE)
    assert 0 == machine.run("pins", "remove", REFERENCE, "--digest", digest, *REASON).code
    pulled = machine.run("pull", REFERENCE)
    assert 1 == pulled.code
    remedy = f"iarproxy pins approve {REFERENCE} --digest {digest} --reason TEXT"
    assert remedy in pulled.err + pulled.out
    _is_refused(machine.run("pins", "rollback", REFERENCE, *REASON), digest, "pins approve")
    assert 0 == machine.run(*remedy.split()[1:]).code
    assert digest == _pinned(machine)


def test_what_waits_is_listed_and_let_in(machine: Machine) -> None:
    """A cool-down and a quarantine are listed with why and until when, and an approval ends them."""
    digest = machine.publish(1, "new1")
    machine.publish(2, "slow")
    assert "Nothing is withheld." in machine.run("pins", "list", "--waiting").out
    assert (1, 1) == (machine.run("pull", _named("new1")).code, machine.run("pull", _named("slow")).code)
    found = machine.run("pins", "list", "--waiting", "--json").json["waiting"]
    assert ["cooling-down", "awaits-approval"] == [each["why"] for each in found]
    listed = machine.run("pins", "list", "--waiting").out
    assert "cools down until" in listed
    assert "awaits approval" in listed
    assert "2 tags are withheld" in machine.run("pins", "list").out
    _is_refused(machine.run("pins", "show", _named("new1")), digest, "cools down until")
    assert 0 == machine.run("pins", "approve", _named("new1"), "--digest", digest, *REASON).code
    assert digest == _pinned(machine, tag="new1")
    assert 1 == len(machine.run("pins", "list", "--waiting", "--json").json["waiting"])


def test_what_waits_in_an_environment_is_told_there(machine: Machine) -> None:
    """Hints count and name the environment that is looked at, and the commands in them work as they stand."""
    digest = machine.publish(1, "slow")
    assert 0 == machine.run("pins", "approve", _named("slow"), "--digest", digest, *REASON).code
    assert 0 == machine.run("pins", "remove", _named("slow"), "--digest", digest, *REASON).code
    assert 1 == machine.run("pull", _named("slow")).code
    assert "1 tag is withheld; `iarproxy pins list --waiting` tells" in machine.run("pins", "list").out
    assert "withheld" not in machine.run("pins", "list", "--env", "dev").out
    told = machine.run("pins", "show", _named("slow")).err
    assert f"`iarproxy pins approve {_named('slow')} --digest {digest} --reason TEXT`" in told


def test_a_pattern_that_fits_nothing_says_so(machine: Machine) -> None:
    """It is not told that nothing is pinned."""
    assert "Nothing is pinned yet" in machine.run("pins", "list").out
    assert "No pin fits app/*" in machine.run("pins", "list", "app/*").out


def test_an_approval_before_the_first_pull_fetches_by_digest(machine: Machine) -> None:
    """Any digest that upstream has can be approved for a tag that nobody pulled; one that it lacks cannot."""
    digest = machine.publish(1)
    machine.publish(2)
    _is_refused(machine.run("pins", "approve", REFERENCE, "--digest", NEVER, *REASON), NEVER)
    assert 0 == machine.run("pins", "approve", REFERENCE, "--digest", digest, *REASON).code
    assert digest == _pinned(machine)
    assert 0 == machine.run("pull", REFERENCE).code


def test_each_environment_has_acts_of_its_own(machine: Machine) -> None:
    """What does not fit an environment is refused, with the command that does; pins of others are left alone."""
    one, two = machine.publish(1), machine.publish(2)
    swap = ("--from", one, "--to", two, *REASON)
    _is_refused(machine.run("pins", "repin", REFERENCE, *swap, "--env", "prod"), "iarproxy promote", "--to prod", one)
    _is_refused(machine.run("pins", "repin", REFERENCE, *swap, "--env", "locked"), "lock import FILE --env locked")
    named = ("--digest", one, *REASON)
    _is_refused(machine.run("pins", "approve", REFERENCE, *named, "--env", "prod"), "iarproxy promote")
    _is_refused(machine.run("pins", "approve", REFERENCE, *named, "--env", "locked"), "lock import FILE --env locked")
    _is_refused(machine.run("pins", "remove", REFERENCE, *named, "--env", "locked"), "--prune")
    _is_refused(machine.run("pins", "rollback", REFERENCE, *REASON, "--env", "locked"), "lock import FILE")
    _is_refused(machine.run("pins", "rollback", REFERENCE, *REASON, "--env", "prod"), "no pin")
    assert 0 == machine.run("pins", "approve", REFERENCE, *named, "--env", "dev").code
    assert one == _pinned(machine, "--env", "dev")
    assert {"pins": [], "damaged": []} == machine.run("pins", "list", "--json").json
    assert 1 == len(machine.run("pins", "list", "--json", "--env", "dev").json["pins"])
    assert ["approved"] == [e["kind"] for e in machine.run("pins", "history", REFERENCE, "--env", "dev", "--json").json]
    assert 2 == machine.run("pins", "list", "--env", "nowhere").code


def test_a_promotion_is_rolled_back(machine: Machine) -> None:
    """In an environment of promotions a rollback promotes the earlier entry again; the default one is left alone."""
    old = machine.publish(1)
    machine.run("pull", REFERENCE)
    promote = ("promote", REFERENCE, "--to", "prod", *REASON)
    assert 0 == machine.run(*promote).code
    new = machine.publish(2)
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, *REASON).code
    assert 0 == machine.run(*promote, "--replace", old).code
    assert 0 == machine.run("pins", "rollback", REFERENCE, "--env", "prod", *REASON).code
    assert (old, new) == (_pinned(machine, "--env", "prod"), _pinned(machine))
    events = machine.run("pins", "history", REFERENCE, "--env", "prod", "--json").json
    assert ["promoted", "promoted", "rolled-back"] == [each["kind"] for each in events]


def test_no_act_leads_to_a_recalled_digest(machine: Machine) -> None:
    """Neither repin, rollback nor approval: the refusal names the recall."""
    bad = machine.publish(1)
    machine.run("pull", REFERENCE)
    good = machine.publish(2)
    assert 0 == machine.run("pins", "repin", REFERENCE, "--from", bad, "--to", good, *REASON).code
    assert 0 == machine.run("recall", bad, "--reason", "malware").code
    _is_refused(machine.run("pins", "rollback", REFERENCE, *REASON), "recalled", bad)
    _is_refused(machine.run("pins", "repin", REFERENCE, "--from", good, "--to", bad, *REASON), "recalled", bad)
    _is_refused(machine.run("pins", "approve", _named("2"), "--digest", bad, *REASON), "recalled", bad)
    assert good == _pinned(machine)


def test_a_followed_tag_takes_no_pin(machine: Machine) -> None:
    """Where the configuration says that a tag follows upstream, a pin would mean nothing."""
    digest = machine.publish(1, "moving")
    _is_refused(machine.run("pins", "approve", _named("moving"), "--digest", digest, *REASON), "follow", "**:moving")


@pytest.mark.parametrize(
    "arguments",
    [
        ["repin", REFERENCE, "--from", NEVER, "--to", NEVER, "--reason", " "],
        ["rollback", REFERENCE],
        ["rollback", REFERENCE, "--to", "sha256:12", *REASON],
        ["approve", REFERENCE, *REASON],
        ["approve", f"registry.example.com/team/app@{NEVER}", "--digest", NEVER, *REASON],
        ["remove", REFERENCE, "--digest", NEVER, "--reason", ""],
        ["remove", REFERENCE, "--digest", NEVER, "--actor", "ann", *REASON],
    ],
)
def test_a_wrong_act_is_one_line(machine: Machine, arguments: list[str]) -> None:
    """Usage errors name the option; who acts is no option."""
    ended = machine.run("pins", *arguments)
    assert (2, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
