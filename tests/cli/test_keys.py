"""`iarproxy keys`: made once, private from the first byte, never overwritten; rotated by the old key's own word."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from iarproxy.cli import app
from iarproxy.cli.key_reading import private_key, rotations_beside, signers
from iarproxy.errors import Refused
from iarproxy.trust.bundles import vouched
from iarproxy.trust.signing import KeyType


@pytest.fixture(autouse=True)
def open_to_all() -> Iterator[None]:
    """A person's umask may let others read everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def run(*words: str | Path) -> int:
    """The exit code of a command of `keys`."""
    last_resort = logging.lastResort
    try:
        return app.run(["keys", *map(str, words)])
    finally:  # `run` sets where logs go
        structlog.reset_defaults()
        logging.lastResort = last_resort


def there(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def made(capfd: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, str]:
    """What a command of `keys` made."""
    assert run(*words, "--json") == 0
    found: dict[str, str] = json.loads(capfd.readouterr().out)
    return found


def refused(capfd: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    code = run(*words)
    said = capfd.readouterr().err
    assert said.count("\n") == 1, said
    return code, said


@pytest.mark.parametrize("kind", KeyType)
def test_create(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: KeyType) -> None:
    """Two files, the private one its owner's alone; they are halves of one key, of the type that was asked for."""
    told = made(capfd, "create", tmp_path / "team", "--type", kind)
    assert {"team.key": 0o600, "team.pub": 0o644} == {
        each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()
    }
    key = private_key(tmp_path / "team.key")
    assert [(key.public,)] == signers([tmp_path / "team.pub"])
    assert (kind, key.public.fingerprint) == (told["type"], told["fingerprint"])


def test_nothing_is_overwritten(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where either file is there already nothing is made, and what is there stays."""
    for suffix in (".key", ".pub"):
        mine = tmp_path / f"team{suffix}"
        mine.write_text("mine")
        code, said = refused(capfd, "create", tmp_path / "team")
        assert (1, True, ["mine"]) == (code, str(mine) in said, [each.read_text() for each in tmp_path.iterdir()])
        mine.unlink()
    (tmp_path / "team.key").symlink_to(tmp_path / "elsewhere")
    assert 1 == refused(capfd, "create", tmp_path / "team")[0]
    assert ["team.key"] == there(tmp_path)


def test_a_wrong_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A name with the suffix is a mistake of usage; a folder that is not there is said."""
    assert 2 == refused(capfd, "create", tmp_path / "team.key")[0]
    code, said = refused(capfd, "create", tmp_path / "nowhere/team")
    assert (1, True) == (code, "nowhere" in said)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "inner/", "inner/.."])
def test_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """What names a folder, or nothing, makes no key beside it: an unset variable of a script is such a name."""
    inner = tmp_path / "here" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner.parent)
    code, said = refused(capfd, "create", name)
    assert (2, True) == (code, "is no name of a key" in said)
    assert [] == [*tmp_path.rglob("*.key"), *tmp_path.rglob("*.pub")]


def test_rotate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The rotations that lead to a key lie beside it, whichever folder each came from."""
    made(capfd, "create", tmp_path / "a")
    made(capfd, "rotate", tmp_path / "a.key", tmp_path / "b", "--type", "ed25519")
    (tmp_path / "new").mkdir()
    told = made(capfd, "rotate", tmp_path / "b.key", tmp_path / "new/c")
    newest = private_key(tmp_path / "new/c.key").public
    beside = rotations_beside(tmp_path / "new/c.key", newest)
    assert 2 == len(beside)
    assert Path(told["rotation"]).name in beside
    assert {} == rotations_beside(tmp_path / "a.key", private_key(tmp_path / "a.key").public)
    with pytest.raises(Refused) as caught:  # the rotations are taken: what is missing is a signature
        vouched([], b"", signers([tmp_path / "a.pub"]), rotations=list(beside.values()))
    assert "untrusted-key" == caught.value.detail["code"]


def test_a_key_has_one_successor(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A key that was rotated is not rotated again, and nothing is made."""
    made(capfd, "create", tmp_path / "a")
    made(capfd, "rotate", tmp_path / "a.key", tmp_path / "b")
    before = there(tmp_path)
    code, said = refused(capfd, "rotate", tmp_path / "a.key", tmp_path / "c")
    assert (1, True, before) == (code, "has a successor already" in said, there(tmp_path))


def test_a_rotation_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The new key is gone again where the rest fails."""
    made(capfd, "create", tmp_path / "a")
    (tmp_path / "b.pub").mkdir()
    before = there(tmp_path)
    assert 1 == refused(capfd, "rotate", tmp_path / "a.key", tmp_path / "b")[0]
    assert before == there(tmp_path)


def test_files_that_are_no_keys(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A key that others may read, no key, and no file are refused by name."""
    made(capfd, "create", tmp_path / "a")
    (tmp_path / "no.key").write_text("no key")
    (tmp_path / "no.key").chmod(0o600)
    (tmp_path / "a.key").chmod(0o644)
    for name, wanted in (("a.key", "chmod 600"), ("no.key", "not a private key"), ("missing.key", "cannot be read")):
        code, said = refused(capfd, "rotate", tmp_path / name, tmp_path / "b")
        assert (1, True, True) == (code, name in said, wanted in said)
    for name in ("no.key", "missing.pub"):
        assert 1 == refused(capfd, "show", tmp_path / name)[0]


def test_the_other_half(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever gives a public key where a private one is wanted is told so, and not to change its mode."""
    made(capfd, "create", tmp_path / "team")
    code, said = refused(capfd, "rotate", tmp_path / "team.pub", tmp_path / "new")
    assert (1, True, False) == (code, "give team.key" in said, "chmod" in said)


def test_show(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The fingerprints of all keys in a file are told."""
    ones = [made(capfd, "create", tmp_path / each)["fingerprint"] for each in ("a", "b")]
    both = tmp_path / "both.pub"
    both.write_bytes((tmp_path / "a.pub").read_bytes() + (tmp_path / "b.pub").read_bytes())
    assert 0 == run("show", both)
    assert ones == [line.split()[0] for line in capfd.readouterr().out.splitlines()]
