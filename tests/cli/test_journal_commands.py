"""`iarproxy journal` as a person runs it: reading, signing, verifying, proving, and finding a split view."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from test_commands import REFERENCE, Machine, a_machine
from test_lock import Here


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A tag that was pinned and repinned."""
    with a_machine(tmp_path) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        with (tmp_path / "iarproxy.toml").open("a") as file:
            file.write(f'[journal]\ncheckpoint_file = "{tmp_path}/witness"\n')
        machine = Here(made.registry, made.folder, made.environment)
        old = machine.publish(1)
        assert 0 == machine.run("pull", REFERENCE).code
        new = machine.publish(2)
        done = machine.run("pins", "repin", REFERENCE, "--from", old, "--to", new, "--reason", "reviewed")
        assert (0, "") == (done.code, done.err)
        yield machine


def ledger(machine: Machine) -> Path:
    return machine.folder / "store" / "ledger.db"


def key(machine: Machine) -> str:
    return str(machine.run("journal", "keys", "--json").json[-1]["key"])


def test_reading(history: Machine) -> None:
    """The newest entries, those after a place, those of a kind; as text and as JSON."""
    shown = history.run("journal", "show", "--json").json
    assert ["created", "pinned", "repinned"] == [each["kind"] for each in shown]
    assert [2] == [each["serial"] for each in history.run("journal", "show", "--after=1", "--limit=1", "--json").json]
    assert [3] == [each["serial"] for each in history.run("journal", "show", "--limit=1", "--json").json]
    assert [REFERENCE] == [each["reference"] for each in history.run("journal", "show", "--kind=pinned", "--json").json]
    text = history.run("journal", "show").out
    assert all(word in text for word in ("SERIAL", REFERENCE, "repinned", "reviewed", f"uid {os.getuid()}"))
    assert 2 == history.run("journal", "show", "--kind", "nothing").code
    assert "no such entries" in history.run("journal", "show", "--after", "99").out


def test_signing_and_verifying(history: Machine) -> None:
    """The first checkpoint makes the key; what it prints verifies the journal; the file has a copy."""
    made = history.run("journal", "checkpoint")
    assert (0, "") == (made.code, made.err)
    assert ["iarproxy/", "4"] == [made.out.splitlines()[0][:9], made.out.splitlines()[1]]
    assert made.out == history.run("journal", "checkpoint").out
    assert made.out == json.loads((history.folder / "witness").read_text())["checkpoint"]
    assert 0o600 == stat.S_IMODE((history.folder / "store" / "journal.key").stat().st_mode)
    (history.folder / "note").write_text(made.out)
    found = history.run("journal", "verify", "--against", "note", "--key", key(history), "--json")
    assert (0, True, 4, 2) == (found.code, found.json["ok"], found.json["signed"], found.json["brought"])
    text = history.run("journal", "verify").out
    assert text.endswith("all of it agrees\n")
    assert "1 hold, up to entry 4" in text


def test_a_failed_verification_names_the_entry(history: Machine) -> None:
    """A changed line, an old database, and a file of a checkpoint that is missing here: exit 1, and which entry."""
    assert 0 == history.run("journal", "checkpoint").code
    lines = ledger(history).with_name("journal.jsonl")
    whole = lines.read_bytes()
    lines.write_bytes(whole.replace(b"reviewed", b"reviewEd"))
    failed = history.run("journal", "verify")
    assert 1 == failed.code
    assert "entry 3: its line in journal.jsonl, line 3, is broken" in failed.err
    assert 3 == history.run("journal", "verify", "--json").json["first"]
    lines.write_bytes(whole)
    shutil.copytree(history.folder / "store", history.folder / "copy")
    assert 0 == history.run("journal", "rotate-key", "--reason", "yearly").code
    for name in ("ledger.db", "journal.jsonl"):
        shutil.copy(history.folder / "copy" / name, ledger(history).with_name(name))
    failed = history.run("journal", "verify")
    assert 1 == failed.code
    assert "entry 5: missing: a checkpoint that left here covers 5 entries, the journal ends at 4" in failed.err
    ledger(history).write_bytes(b"no database" * 1000)
    broken = history.run("journal", "verify")
    assert (1, 1) == (broken.code, broken.err.count("\n"))


def test_it_works_where_the_ledger_does_not_open(history: Machine) -> None:
    """A ledger that is refused at start is still verified, and the entry named."""
    with closing(sqlite3.connect(ledger(history))) as raw, raw:
        [[trigger]] = raw.execute("SELECT sql FROM sqlite_schema WHERE name = 'journal_update'").fetchall()
        raw.execute("DROP TRIGGER journal_update")
        raw.execute("UPDATE journal SET reason = 'fine' WHERE serial = 3")
        raw.execute(trigger)
    assert 1 == history.run("pins", "list").code
    failed = history.run("journal", "verify")
    assert 1 == failed.code
    assert "entry 3: fails its hash" in failed.err


def test_keys_and_their_rotation(history: Machine) -> None:
    """The keys, from when each counts, by whom; a lost one is said to be lost."""
    assert "Nothing was signed yet" in history.run("journal", "keys").out
    history.run("journal", "checkpoint")
    first = key(history)
    rotated = history.run("journal", "rotate-key", "--reason", "yearly")
    assert (0, "") == (rotated.code, rotated.err)
    assert 2 == rotated.out.count("\u2014 ")
    assert key(history) in rotated.out
    (history.folder / "store" / "journal.key").unlink()
    refused = history.run("journal", "checkpoint")
    assert 0 == refused.code, "nothing is to be signed"
    assert 1 == history.run("journal", "rotate-key", "--reason", "again").code
    assert 0 == history.run("journal", "rotate-key", "--lost", "--reason", "disk died").code
    listed = history.run("journal", "keys", "--json").json
    assert ["first", "rotated", "lost"] == [each["how"] for each in listed]
    assert [first, "iarproxy", "yearly"] == [listed[0]["key"], listed[0]["by"], listed[1]["reason"]]
    assert "LOST: nobody vouches" in history.run("journal", "keys").out
    assert "the key before it was lost" in history.run("journal", "verify").out
    assert 1 == history.run("journal", "verify", "--key", first).code
    assert 2 == history.run("journal", "rotate-key", "--reason", " ").code


def test_a_proof_is_checked_anywhere(
    history: Machine, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With neither configuration nor ledger; it says what it proves and what not, and which key is trusted."""
    made = history.run("journal", "prove", REFERENCE, "-o", "proof.json")
    assert (0, "", "") == (made.code, made.out, made.err)
    assert 1 == history.run("journal", "prove", REFERENCE, "-o", "proof.json").code
    trusted = key(history)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    raw = (history.folder / "proof.json").read_bytes()
    (elsewhere / "proof.json").write_bytes(raw)
    never = history.run("journal", "prove", "registry.example.com/team/never:1", "-o", "never.json")
    assert (1, False) == (never.code, (history.folder / "never.json").exists())
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("IARPROXY_CONFIG", "/nothing.toml")
    checked = history.run("journal", "check", "proof.json", "--key", trusted)
    assert (0, "") == (checked.code, checked.err)
    assert all(text in checked.out for text in ("repinned sha256:", "reviewed", trusted, "proves not"))
    unknown = history.run("journal", "check", "proof.json", "--json")
    assert (0, False, 2) == (unknown.code, unknown.json["trusted"], len(unknown.json["pins"]))
    assert "the key is the file's own word" in history.run("journal", "check", "proof.json").err
    (elsewhere / "proof.json").write_bytes(raw.replace(b"reviewed", b"reviewEd"))
    failed = history.run("journal", "check", "proof.json")
    assert (1, "iarproxy: entry 3: is no line of a journal, or fails its hash: it was changed\n") == (
        failed.code,
        failed.err,
    )
    assert 1 == history.run("journal", "check", "nothing.json").code
    assert 2 == history.run("journal", "check", "proof.json", "--key", "no key").code


def test_two_sites_compare(history: Machine) -> None:
    """One history is shown by a proof; two histories of one size are a split view."""
    history.run("journal", "checkpoint")
    shutil.copytree(history.folder / "store", history.folder / "fork")
    (history.folder / "one").write_text(history.run("journal", "checkpoint").out)
    trusted = key(history)
    history.run("journal", "rotate-key", "--reason", "here")
    (history.folder / "two").write_text(history.run("journal", "checkpoint").out)
    assert 0 == history.run("journal", "compare", "one", "one", "--key", trusted).code
    unknown = history.run("journal", "compare", "one", "two")
    assert (1, "not known; ask the site for a proof: `iarproxy journal proof --from 4 --to 5`\n") == (
        unknown.code,
        unknown.out,
    )
    assert 0 == history.run("journal", "proof", "--from", "4", "--to", "5", "-o", "proof").code
    shown = history.run("journal", "compare", "two", "one", "--proof", "proof", "--json")
    assert (0, "continued") == (shown.code, shown.json["verdict"])
    shutil.rmtree(history.folder / "store")
    (history.folder / "fork").rename(history.folder / "store")
    fork = history.run("journal", "rotate-key", "--reason", "there")
    assert (4, True) == (fork.code, "left this machine" in fork.err)
    (history.folder / "witness").rename(history.folder / "kept")
    history.run("journal", "rotate-key", "--reason", "there")
    (history.folder / "other").write_text(history.run("journal", "checkpoint").out)
    split = history.run("journal", "compare", "two", "other", "--key", trusted)
    assert (1, "") == (split.code, split.err)
    assert split.out.startswith("SPLIT VIEW: two histories of 5 entries")
    assert "proof does not show" in history.run("journal", "compare", "one", "other", "--proof", "proof").out
    assert 2 == history.run("journal", "proof", "--from", "5", "--to", "4").code
    assert 1 == history.run("journal", "proof", "--from", "5", "--to", "99").code


def test_export(history: Machine) -> None:
    """The journal's own lines byte for byte, or CloudEvents; to a file or to standard output."""
    lines = ledger(history).with_name("journal.jsonl").read_text()
    assert lines == history.run("journal", "export").out
    assert lines.splitlines(keepends=True)[2] == history.run("journal", "export", "--after", "2").out
    assert 0 == history.run("journal", "export", "--format", "cloudevents", "-o", "events").code
    events = [json.loads(line) for line in (history.folder / "events").read_text().splitlines()]
    assert ["created", "pinned", "repinned"] == [each["type"].removeprefix("dev.iarproxy.") for each in events]
    assert {"1.0"} == {each["specversion"] for each in events}
    assert 1 == history.run("journal", "export", "-o", "/nowhere/events").code


def test_a_rebuilt_ledger_takes_its_checkpoints_back(history: Machine) -> None:
    """From the file that they were copied to; without one they begin anew, and it says so."""
    history.run("journal", "checkpoint")
    ledger(history).unlink()
    rebuilt = history.run("ledger", "rebuild")
    assert 0 == rebuilt.code
    assert f"1 checkpoints taken back from {history.folder}/witness" in rebuilt.out
    assert "1 hold, up to entry 4" in history.run("journal", "verify").out
    (history.folder / "witness").unlink()
    ledger(history).unlink()
    rebuilt = history.run("ledger", "rebuild")
    assert (0, True) == (rebuilt.code, "checkpoints begin anew" in rebuilt.out)
    verified = history.run("journal", "verify")
    assert (0, True) == (verified.code, "witness, the [journal] checkpoint_file, is missing or empty" in verified.out)
