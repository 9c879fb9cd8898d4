"""`iarproxy sync` as a person runs it: the plan, the sync, what is said when something fails, and breaking it off."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ended import Ended
from test_commands import Machine, a_machine

APP = "registry.example.com/team/app"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with a_machine(tmp_path_factory.mktemp("machine")) as made:
        for seed, tag in enumerate(("1.0.0", "1.1.0", "2.0.0")):
            made.publish(seed, tag)
        yield made


def sync(machine: Machine, body: str, *options: str) -> Ended:
    (machine.folder / "sets.toml").write_text(f'[[set]]\nname = "site-a"\n{body}\n')
    return machine.run("sync", "site-a", *options)


def test_plan_then_sync_then_again(machine: Machine) -> None:
    """The plan says what comes and writes nothing; the sync brings it; the next plan has nothing to fetch."""
    body = f'[[set.repositories]]\nname = "{APP}"\nsemver = "^1"'
    planned = sync(machine, body, "--plan")
    assert (0, "") == (planned.code, planned.err)
    assert "site-a: 2 names, 2 to be pinned; 6 blobs and manifests" in planned.out
    assert "repositories: registry.example.com/team/app (semver ^1)" in planned.out
    assert "Nothing was written." in planned.out
    assert [] == machine.run("pins", "list", "--json").json["pins"]
    synced = sync(machine, body)
    assert (0, "") == (synced.code, synced.err)
    assert "site-a: 2 names, 2 newly pinned" in synced.out
    assert "of 2 names 0 have signatures, 0 have an SBOM, 0 have provenance" in synced.out
    assert "complete; `iarproxy bundle create site-a`" in synced.out
    again = sync(machine, body, "--plan", "--json").json
    assert ({"count": 0, "bytes": 0}, []) == (again["missing"], again["lacking"])
    assert {"signature": 0, "SBOM": 0, "provenance": 0} == again["kinds"]
    told = sync(machine, body, "--json").json
    assert (True, 0, [f"{APP}:1.0.0", f"{APP}:1.1.0"]) == (
        told["complete"],
        told["fetched"]["count"],
        [each["reference"] for each in told["names"]],
    )


def test_what_fails_is_listed_and_the_rest_goes_on(machine: Machine) -> None:
    """Exit 1 where the answer is no; each part that is lacking has a line; what can be had is there."""
    failed = sync(machine, f'references = ["{APP}:none", "{APP}:2.0.0"]')
    assert 1 == failed.code
    assert f"iarproxy: {APP}:none: registry.example.com has no " in failed.err
    assert "set site-a is incomplete: 1 part of it cannot be had" in failed.err
    assert "site-a: 1 name, 1 newly pinned" in failed.out
    assert "complete;" not in failed.out


def test_what_may_come_later_is_unavailable(machine: Machine) -> None:
    """Exit 4 where upstream failed; asking for referrers fails closed, and may be left out."""
    body = f'references = ["{APP}:1.0.0"]'
    machine.registry.act("add_fault", pattern="*/referrers/*", fault={"status": 500})
    try:
        failed = sync(machine, body, "--wait", "0s")
        assert 4 == failed.code
        assert "referrers" in failed.err
        told = sync(machine, body, "--without", "referrers", "--json")
        assert (0, False) == (told.code, told.json["referrers"])
    finally:
        machine.registry.act("clear_faults")
    told = sync(machine, f"{body}\nreferrers = false", "--with", "referrers", "--json")
    assert (0, True) == (told.code, told.json["referrers"])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["site-b"], 1, "sets.toml has no set 'site-b'; it has site-a"),
        (["site-a", "--sets", "none.toml"], 1, "none.toml: cannot be read: No such file"),
        (["site-a", "--with", "referrers", "--without", "referrers"], 2, "one of them"),
        (["site-a", "--wait", "soon"], 2, "not a time: 'soon'; write for example"),
        (["site-a", "--without", "sboms"], 2, "'sboms' is not one of"),
    ],
)
def test_one_clear_error(machine: Machine, options: list[str], code: int, said: str) -> None:
    """A wrong set, file or option is one line, and nothing is asked of anybody."""
    (machine.folder / "sets.toml").write_text(f'[[set]]\nname = "site-a"\nreferences = ["{APP}:1.0.0"]\n')
    ended = machine.run("sync", *options)
    assert (code, "") == (ended.code, ended.out)
    assert said in ended.err
    assert 1 == len(ended.err.splitlines())


def test_an_unknown_key_is_suggested(machine: Machine) -> None:
    """So is what is misspelled in the sets file."""
    ended = sync(machine, f'reference = ["{APP}:1.0.0"]')
    assert 1 == ended.code
    assert 'sets.toml: set "site-a": reference: unknown key; did you mean references?' in ended.err


def test_breaking_it_off(machine: Machine) -> None:
    """Ctrl-C ends it in one line; the next run goes on, and keeps what had come."""
    published = machine.registry.act("publish", repository="team/big", tag="1", seed=9, size=400_000)
    layer = published["layers"][0]
    machine.registry.act("add_fault", pattern=f"*/blobs/{layer}", fault={"stall_at": 200_000})
    body = 'references = ["registry.example.com/team/big:1"]'
    (machine.folder / "sets.toml").write_text(f'[[set]]\nname = "site-a"\n{body}\n')
    part = machine.folder / "store" / "ingest" / f"{layer.replace(':', '-')}.part"
    with subprocess.Popen(
        [sys.executable, "-m", "iarproxy", "sync", "site-a"],
        stderr=subprocess.PIPE,
        text=True,
        env=machine.environment,
        cwd=machine.folder,
    ) as child:
        _until_there(part)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert (130, "iarproxy: interrupted; what was complete is kept\n") == (child.returncode, said)
    machine.registry.act("clear_faults")
    machine.registry.act("forget")
    assert 0 == sync(machine, body).code
    assert machine.registry.act("sent")[layer] < 400_000


def _until_there(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 100_000:
        assert time.monotonic() < deadline, f"{path} did not grow"
        time.sleep(0.05)
