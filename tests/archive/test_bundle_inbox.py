"""`iarproxy bundle inbox` at a site that is offline: what arrives is applied, told, acknowledged, and explained."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from airgap_sets import Wanted
from airgap_world import UPSTREAM, a_site, an_origin
from iarproxy.ledger import EventKind
from images import index, small_image

APP, TOOL = f"{UPSTREAM}/team/app", f"{UPSTREAM}/team/tool:2"


class World:
    """An origin with a key, and a site that watches a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin, self.site = an_origin(folder / "origin"), a_site(folder / "site")
        self.origin.done("keys", "create", "team")
        self.inbox, self.receipts = folder / "in", folder / "site" / "receipts"
        self.inbox.mkdir()
        trust = self.origin.folder / "team.pub"
        text = f'[inbox]\npath = "{self.inbox}"\ntrust = ["{trust}"]\nreceipts = "{self.receipts}"\nsettle = "100ms"\n'
        self.site.config.write_text(self.site.config.read_text() + text)

    def bundle(self, to: Path, *tags: str, name: str = "site-a", since: Path | None = None, size: str = "") -> Path:
        """A bundle of images with these tags, as the origin makes it."""
        self.origin.sync(name, {f"{APP}:{tag}": small_image(int(tag), size=700_000) for tag in tags})
        on = ["--full"] if since is None else ["--since", str(since)]
        volumes = ["--volume-size", size] if size else []
        key = self.origin.folder / "team.key"
        self.origin.done(
            "bundle", "create", name, "--sets", self.origin.sets_file, "--key", key, *on, *volumes, "-o", to
        )
        return to

    def taken(self, code: int = 0) -> dict[str, str]:
        """A pass: of each bundle its set and sequence, and what became of it."""
        ended = self.site.run("bundle", "inbox", "--json")
        assert code == ended.code, ended.out + ended.err
        return {each["what"].partition(" (")[0]: each["outcome"] for each in ended.json["bundles"]}

    def events(self, kind: EventKind) -> int:
        """How many entries of that kind the site's journal has: what its webhooks are told."""

        async def look(rooms: object) -> int:
            return sum(each.kind is kind for each in await rooms.ledger.events(limit=1000))  # type: ignore[attr-defined]

        return self.site.within(look)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _everything(root: Path) -> list[tuple[str, int, bytes]]:
    files = (each for each in root.rglob("*") if each.is_file())
    return sorted((str(each), each.stat().st_mtime_ns, each.read_bytes()) for each in files)


def test_what_arrives_is_applied(world: World) -> None:
    """Two bundles of a set and one of another, in one pass; the origin takes their receipts; the folder is as it was,
    and another pass does nothing.
    """
    first = world.bundle(world.folder / "first", "1")
    world.bundle(world.inbox / "second", "1", "2", since=first)
    world.bundle(world.inbox / "other", "3", name="site-b")
    shutil.copytree(first, world.inbox, dirs_exist_ok=True)
    before = _everything(world.inbox)
    assert {"site-a 1": "applied", "site-a 2": "applied", "site-b 1": "applied"} == world.taken()
    assert {f"{APP}:{tag}" for tag in "123"} == set(world.site.pins())
    assert before == _everything(world.inbox)
    names = sorted(each.name.rpartition("-")[0] for each in world.receipts.iterdir())
    assert ["site-a-1", "site-a-2", "site-b-1"] == names
    serial = world.site.holdings()
    assert {"site-a 1": "older", "site-a 2": "known", "site-b 1": "known"} == world.taken()
    assert serial == world.site.holdings()
    assert 3 == world.events(EventKind.APPLIED)
    _acknowledges(world)


def _acknowledges(world: World) -> None:
    """A receipt of the inbox is one that the origin takes."""
    world.site.done("bundle", "receipt", "site-a", "--pub", world.folder / "site.pub", "-o", world.folder / "again")
    (receipt,) = world.receipts.glob("site-a-2-*.receipt")
    words: list[str | Path] = [
        "--receipt",
        receipt,
        "--trust",
        world.folder / "site.pub",
        "--key",
        world.origin.folder / "team.key",
    ]
    target = world.folder / "next"
    world.origin.done("bundle", "create", "site-a", "--sets", world.origin.sets_file, *words, "-o", target)
    assert 100_000 > sum(each.stat().st_size for each in target.iterdir())


def test_media_one_after_the_other(world: World) -> None:
    """Volumes that come on several media: the names come with the last one, and what came before is kept."""
    whole = world.bundle(world.folder / "whole", "1", "2", "3", size="1MiB")
    volumes = sorted(whole.glob("volume-*.tar"))
    assert 2 < len(volumes)
    shutil.copytree(whole, world.inbox / "one", ignore=shutil.ignore_patterns("volume-002.tar"))
    assert {"site-a 1": "waiting"} == world.taken()
    assert {} == world.site.pins()
    (world.inbox / "two").mkdir()
    shutil.copy(whole / "volume-002.tar", world.inbox / "two" / "renamed.bin")
    assert {"site-a 1": "applied"} == world.taken()
    assert 3 == len(world.site.pins())


def test_a_refusal_is_told_once(world: World) -> None:
    """A damaged volume is refused once, with exit code 1, holds up no other set, and is taken when copied again."""
    world.bundle(world.inbox / "good", "1", name="site-b")
    bad = world.bundle(world.inbox / "bad", "2")
    volume = bad / "volume-001.tar"
    sound = volume.read_bytes()
    volume.write_bytes(sound[:-5000] + b"?" * 10 + sound[-4990:])
    assert {"site-a 1": "refused", "site-b 1": "applied"} == world.taken(code=1)
    assert {"site-a 1": "refused-before", "site-b 1": "known"} == world.taken()
    assert 1 == world.events(EventKind.REFUSED)
    assert {f"{APP}:1"} == set(world.site.pins())
    volume.write_bytes(sound)
    os.utime(volume)
    assert {"site-a 1": "applied", "site-b 1": "known"} == world.taken()


def test_who_is_not_trusted(world: World) -> None:
    """A bundle of somebody else is refused; trusting that key is enough to have it taken."""
    world.origin.done("keys", "create", "other")
    world.bundle(world.inbox / "one", "1")
    pub = f"{world.origin.folder}/team.pub"
    text = world.site.config.read_text()
    world.site.config.write_text(text.replace(pub, f"{world.origin.folder}/other.pub"))
    ended = world.site.run("bundle", "inbox")
    assert (1, True) == (ended.code, "(untrusted-key)" in ended.err or "(too-few-signatures)" in ended.err), ended.err
    world.site.config.write_text(text)
    assert {"site-a 1": "applied"} == world.taken()


def test_without_an_inbox(tmp_path: Path) -> None:
    """Where none is configured that is said, with what to write."""
    ended = a_site(tmp_path / "site").run("bundle", "inbox")
    assert (1, True) == (ended.code, "has no [inbox]; write `path` and `trust` there" in ended.err)


def test_whence_and_what_would_bring_it(world: World) -> None:
    """After an apply `explain` names the bundle of a pin, its set, sequence and who applied it; and of what is missing
    what would bring it: a tag to be added, a platform that was left out.
    """
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    key = world.origin.folder / "team.key"
    sets = world.origin.sets_file
    world.origin.sync("site-a", Wanted({f"{APP}:1": both}, platforms=["linux/amd64"]))
    world.origin.done("bundle", "create", "site-a", "--sets", sets, "--key", key, "--full", "-o", world.inbox / "one")
    assert {"site-a 1": "applied"} == world.taken()
    told = world.site.done("explain", f"{APP}:1", "--json").json
    assert ("site-a", 1, True) == (told["brought"]["set"], told["brought"]["sequence"], told["offline"])
    assert told["by"] == told["brought"]["by"]
    assert "of the set site-a, sequence 1, from " in world.site.done("explain", f"{APP}:1").out
    missing = world.site.done("explain", f"{APP}:9", "--json").json
    assert "the set site-a brings 1 of" in missing["outcome"]
    arm = world.site.done("explain", f"{APP}@{both.children[1].digest}", "--json").json
    assert f"the set site-a leaves it out of {APP}:1" in arm["outcome"]
    ended = world.site.run("pull", f"{APP}:9")
    assert (4, True) == (ended.code, "add it to the set site-a in the sets file at" in ended.err)


def test_what_was_lost_is_brought_back(world: World) -> None:
    """A blob that is gone from the store: the miss says which bundle to apply again, and that brings it back."""
    made = world.bundle(world.inbox / "one", "1")
    assert {"site-a 1": "applied"} == world.taken()
    (layer,) = small_image(1, size=700_000).layers
    path = world.site.store / "blobs/sha256" / layer.hex
    path.unlink()
    ended = world.site.run("pull", f"{APP}:1")
    assert (4, True) == (ended.code, "it was lost since; apply that bundle again" in ended.err)
    told = world.site.done("bundle", "apply", made, "--trust", world.origin.folder / "team.pub", "--json").json
    assert ("unchanged", 700_000, True) == (told["outcome"], told["bytes"] // 100_000 * 100_000, path.exists())
    assert 0 == world.site.run("pull", f"{APP}:1").code
