"""What commands tell somebody who runs a site by its documents alone: what is true, what is meant, what to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airgap_bundles import Made, fresh_site, made
from airgap_world import Place
from iarproxy.trust.receipts import is_receipt

SOMEBODY = 4711


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def site(tmp_path: Path) -> Place:
    return fresh_site(tmp_path / "site")


@pytest.mark.parametrize("words", ["drift check", "diff env:default upstream", "diff upstream env:default"])
def test_upstream_is_not_asked_offline(site: Place, bundle: Made, words: str) -> None:
    """A command that compares with upstream says in one line that this site is offline, and not that what is held is
    not; the code is that of what cannot be told here.
    """
    site.done(*bundle.applying())
    ended = site.run(*words.split())
    assert (4, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
    assert "offline" in ended.err
    assert "not held" not in ended.err


def test_a_stranger_s_key_is_called_as_everywhere(site: Place, bundle: Made, tmp_path: Path) -> None:
    """A refusal calls the key that signed as `keys show`, and the name of its file, call it."""
    site.done("keys", "create", "other")
    ended = site.run("bundle", "apply", bundle.folder, "--trust", site.folder / "other.pub")
    (file,) = bundle.folder.glob("bundle.*.sigstore.json")
    assert (1, True) == (ended.code, f"name the keys {file.name.split('.')[1]};" in ended.err), ended.err
    receipt, public = tmp_path / "one.receipt", tmp_path / "site.pub"
    site.done(*bundle.applying("--receipt", receipt))
    site.done("bundle", "receipt", "site-a", "--pub", public)
    (key,) = site.done("keys", "show", public, "--json").json
    words: list[str | Path] = ["--receipt", receipt, "--trust", site.folder / "other.pub", "-o", tmp_path / "two"]
    words += ["--sets", bundle.origin.sets_file, "--key", bundle.origin.folder / "team.key"]
    ended = bundle.origin.run("bundle", "create", "site-a", *words)
    assert (1, True) == (ended.code, f"names the key {key['fingerprint'][:16]}, and" in ended.err), ended.err


# --- root, beside a service that is another user ---------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[Place]:
    """A site whose store belongs to another user, in a folder that is root's; every user may come to it."""
    with tempfile.TemporaryDirectory() as name:
        above = Path(name)
        above.chmod(0o755)
        place = fresh_site(above / "site")
        place.done("store", "stats")
        place.folder.chmod(0o755)
        (place.folder / "cache").mkdir(exist_ok=True)
        for folder in (place.store, place.folder / "cache"):
            for each in (folder, *folder.rglob("*")):
                os.chown(each, SOMEBODY, SOMEBODY)
        yield place


@pytest.mark.root
def test_the_receipt_of_root(service: Place, bundle: Made) -> None:
    """What root applies for the service leaves its receipt in root's folder, as the documents write the command."""
    ended = service.alone(*bundle.applying())
    assert (0, "") == (ended.code, ended.err)
    assert is_receipt((service.folder / "site-a.receipt").read_bytes())
    assert {SOMEBODY} == {each.stat().st_uid for each in service.store.rglob("*")}


@pytest.mark.root
@pytest.mark.parametrize("words", ["ledger restore private/copy", "lock export private/iar.lock"])
def test_what_the_service_cannot_reach(service: Place, words: str) -> None:
    """A command of root that became the store's owner, and cannot look into root's folder, says so in one line."""
    private = service.folder / "private"
    (private / "copy").mkdir(parents=True)
    private.chmod(0o700)
    ended = service.alone(*words.split())
    assert (1, "", 1) == (ended.code, ended.out, ended.err.count("\n")), ended.err
    assert str(private) in ended.err
    assert "store's owner" in ended.err
