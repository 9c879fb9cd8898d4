"""The commands as a person runs them: a process, its output, its exit code."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ended import Ended
from iarproxy.cli.wiring import runtime_folder
from registry_control import RegistryThread

REFERENCE = "registry.example.com/team/app:1"


@dataclass
class Machine:
    """A machine with a configuration, and a registry beside it."""

    registry: RegistryThread
    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "iarproxy", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            cwd=self.folder,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def publish(self, seed: int, tag: str = "1") -> str:
        return str(self.registry.act("publish", repository="team/app", tag=tag, seed=seed)["digest"])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with a_machine(tmp_path) as made:
        yield made


@contextmanager
def a_machine(folder: Path) -> Iterator[Machine]:
    with RegistryThread() as registry:
        file = folder / "iarproxy.toml"
        file.write_text(
            f'[server]\nlisten = ["127.0.0.1:1"]\n[admin]\nlisten = "127.0.0.1:2"\n[store]\npath = "{folder}/store"\n'
            f'[upstreams."registry.example.com"]\nurl = "{registry.url}"\n'
        )
        home = {"IARPROXY_CONFIG": str(file), "HOME": str(folder), "PATH": os.environ["PATH"]}
        yield Machine(registry, folder, home | {"XDG_CACHE_HOME": str(folder / "cache")})


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_the_life_of_a_pin(machine: Machine) -> None:
    """Pull pins; drift is found; only a repin that names both digests changes the pin; history has it all."""
    old = machine.publish(1)
    pulled = machine.run("pull", REFERENCE, "--json")
    assert (0, old) == (pulled.code, pulled.json["pulled"][0]["digest"])

    new = machine.publish(2)
    checked = machine.run("drift", "check", "--json", "--exit-code")
    assert (3, ("drifted", old, new)) == (
        checked.code,
        tuple(checked.json["checked"][0][key] for key in ("verdict", "pinned", "offered")),
    )
    listed = machine.run("drift", "list", "--json").json["drifts"]
    assert [(REFERENCE, old, new)] == [
        (each["reference"], each["pinned"], each["offered"]["digest"]) for each in listed
    ]

    wrong = machine.run("pins", "repin", REFERENCE, "--from", new, "--to", old, "--reason", "typo")
    assert 1 == wrong.code
    assert old in wrong.err

    right = machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, "--reason", "reviewed by me")
    assert (0, "") == (right.code, right.err)
    shown = machine.run("pins", "show", REFERENCE, "--json").json
    assert (new, 2, None) == (shown["descriptor"]["digest"], shown["revision"], shown["drift"])

    events = machine.run("pins", "history", REFERENCE, "--json").json
    assert ["pinned", "drifted", "repinned"] == [event["kind"] for event in events]
    assert ("reviewed by me", True) == (events[-1]["reason"], f"uid {os.getuid()}" in events[-1]["actor"])
    assert 0 == machine.run("ledger", "verify").code


def test_a_lost_ledger_is_refused_and_rebuilt(machine: Machine) -> None:
    """Without its ledger the store is not used; the error names the command that brings it back, and it does."""
    digest = machine.publish(1)
    machine.run("pull", REFERENCE)
    (machine.folder / "store" / "ledger.db").unlink()
    refused = machine.run("pins", "list")
    assert 1 == refused.code
    assert "iarproxy ledger rebuild" in refused.err
    assert 0 == machine.run("ledger", "rebuild").code
    assert digest == machine.run("pins", "show", REFERENCE, "--json").json["descriptor"]["digest"]


def test_a_backup_is_restored(machine: Machine) -> None:
    """A backup comes back, brought forward by what the journal knows beyond it."""
    machine.publish(1)
    later = machine.publish(2, tag="2")
    machine.run("pull", REFERENCE)
    assert 0 == machine.run("ledger", "backup", "copy").code
    machine.run("pull", "registry.example.com/team/app:2")
    (machine.folder / "store" / "ledger.db").unlink()
    assert 0 == machine.run("ledger", "restore", "copy").code
    shown = machine.run("pins", "show", "registry.example.com/team/app:2", "--json").json
    assert later == shown["descriptor"]["digest"]


def test_unavailable_has_its_own_exit_code(machine: Machine) -> None:
    """An upstream that does not answer is 4; a name that does not exist is 1; both are one line."""
    machine.publish(1)
    missing = machine.run("pull", "registry.example.com/team/app:nope")
    machine.registry.act("add_fault", pattern="*", fault={"status": 503})
    away = machine.run("pull", REFERENCE)
    assert (1, 4) == (missing.code, away.code)
    assert [1, 1] == [len(ended.err.splitlines()) for ended in (missing, away)]
    assert "registry.example.com" in away.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["pins", "frob"], 2, "frob"),
        (["promot"], 2, "Did you mean 'promote'? See `iarproxy --help`."),
        (["recall"], 2, "give the digest to recall"),
        (["promote", "team/app:1"], 2, "--to is missing"),
        (["pull"], 2, "REF"),
        (["pull", "UPPER/case"], 2, "not a repository name"),
        (["pins", "show", "team/app@sha256:" + "a" * 64], 2, "give a tag"),
        (["pins", "show", "registry.example.com/team/app:none"], 1, "not pinned"),
        (["pull", "elsewhere.example/x:1"], 1, "not one of the configured upstreams"),
        (["check-config", "missing.toml"], 1, "missing.toml: no such file"),
        (["--config", "x"], 2, "--config"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_a_wrong_command_is_one_line(machine: Machine, arguments: list[str], code: int, says: str) -> None:
    """Each mistake gets one line that says what it was, and its exit code."""
    ended = machine.run(*arguments)
    assert (code, "") == (ended.code, ended.out)
    assert says in ended.err
    assert 1 == len(ended.err.splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_on_a_full_disk_is_one_line(machine: Machine, options: list[str]) -> None:
    """What cannot be written is said in one line with exit code 1; it is no bug to report."""
    machine.publish(1)
    machine.run("pull", REFERENCE)
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "iarproxy", "pins", "list", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=machine.environment,
            check=False,
        )
    assert (1, 1) == (ended.returncode, len(ended.stderr.splitlines())), ended.stderr
    assert "No space left on device" in ended.stderr


def test_an_interrupted_pull_says_so(machine: Machine) -> None:
    """Ctrl-C ends a pull with one line and the code that shells give it."""
    machine.publish(1)
    machine.registry.act("add_fault", pattern="*/blobs/*", fault={"stall_at": 10})
    command = [sys.executable, "-m", "iarproxy", "pull", REFERENCE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=machine.environment) as pull:
        deadline = time.monotonic() + 30
        while not any("/blobs/" in each["path"] for each in machine.registry.act("log")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pull.send_signal(signal.SIGINT)
        _, said = pull.communicate(timeout=30)
    assert (130, "iarproxy: interrupted; what was complete is kept\n") == (pull.returncode, said)


def test_nothing_needs_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without HOME and without an entry in the password file shares nothing between processes."""
    homeless(monkeypatch)
    assert runtime_folder("store", {}) is None
    assert Path("/run/iarproxy/store") == runtime_folder("store", {"RUNTIME_DIRECTORY": "/run/iarproxy"})


def test_help_is_there_for_every_command(machine: Machine) -> None:
    """`--help` answers, and lists the commands of the contract that exist."""
    text = machine.run("--help").out
    serving = ("serve", "check-config", "explain", "pull", "setup", "store", "demo")
    acting = ("pins", "drift", "promote", "recall", "lock", "diff", "journal", "ledger", "events", "lease")
    assert [] == [command for command in serving + acting if f" {command} " not in text]


def test_a_store_open_to_others_is_refused(machine: Machine) -> None:
    """A store with a wrong mode is not used; the line says what to do (threats T84)."""
    machine.publish(1)
    machine.run("pull", REFERENCE)
    (machine.folder / "store").chmod(0o755)
    refused = machine.run("store", "stats")
    assert 1 == refused.code
    assert "chmod 700" in refused.err


@pytest.mark.root
def test_root_becomes_the_owner_of_the_store() -> None:
    """As root a command works as the store's owner, so that it leaves nothing that the service cannot read."""
    with tempfile.TemporaryDirectory() as name, a_machine(Path(name)) as machine:
        machine.publish(1)
        machine.run("pull", REFERENCE)
        machine.folder.chmod(0o755)
        store = machine.folder / "store"
        for path in (store, *store.rglob("*")):
            os.chown(path, 4711, 4711)
        machine.environment["XDG_CACHE_HOME"] = str(store)
        ended = machine.run("pull", REFERENCE)
        assert (0, "") == (ended.code, ended.err)
        assert {4711} == {path.stat().st_uid for path in store.rglob("*")}


def test_the_demo_tells_the_story(machine: Machine) -> None:
    """The demo runs with nothing but itself, shows the refusal and the evidence, and leaves no trace."""
    told = machine.run("demo")
    assert 0 == told.code
    for part in ("pinned since", "verdict: drifted", "unchanged: True", "IAR-Upstream-Digest: sha256:", "pins repin"):
        assert part in told.out
    assert told.out.index("Upstream goes down") < told.out.index("what is held is served")
