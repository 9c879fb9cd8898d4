"""Taking bundles from a folder, over an apply that the test owns: order, waiting, once each, and nothing is touched."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.taking import Fate, Taken, Taking
from iarproxy.errors import BundleRefused, IarproxyError, StoreFull
from iarproxy.ledger import EventKind, Ledger
from iarproxy.ledger.bundles import Applied, Applying
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import MEDIA_TYPE, BundleManifest, Carried
from iarproxy.trust.bundle import exact
from iarproxy.trust.bundles import BundleStatement, file_of, signed, statement_in
from iarproxy.trust.signing import PrivateKey

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ORIGIN = "origin.example"
KEY = PrivateKey.made()


@dataclass
class Inbox:
    """A watched folder, and the ledger and the apply beside it.

    Attributes:
        wrong: what applying a sequence raises. needs: the sequences that one needs.
        asleep: called while the pass sleeps.
        ahead: by how many seconds the clock is ahead of the disk's: all files are that old.
    """

    root: Path
    ledger: Ledger
    wrong: dict[int, IarproxyError] = field(default_factory=dict)
    needs: dict[int, set[int]] = field(default_factory=dict)
    applied: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    asleep: Callable[[], None] = lambda: None
    clock: float = 0.0
    ahead: float = 3600.0

    async def apply(self, folders: Sequence[Path]) -> str:
        """What the real one does last."""
        with BundleFolder.open(folders) as folder:
            ours = next(each for each in map(exact, folder.signatures) if each.hint == KEY.public.hint)
            said, raw = statement_in(ours.payload), folder.manifest
        if not self.needs.get(said.sequence, set()).issubset(self.applied):
            raise _needs()
        if said.sequence in self.wrong:
            raise self.wrong[said.sequence]
        await self.ledger.bundles.apply(
            Applying(
                origin=said.origin,
                set=said.set,
                sequence=said.sequence,
                bundle=said.bundle,
                manifest=Descriptor(MEDIA_TYPE, Digest.of(raw), len(raw)),
                environment="default",
                changes=(),
                followed=(),
                links={},
                checkpoint="",
                reason="inbox",
                actor="ann",
            )
        )
        self.applied.append(said.sequence)
        return "names"

    def disk_clock(self) -> float:
        """Seconds since 1970, as files have them."""
        probe = self.root.parent / "probe"
        probe.touch()
        return probe.stat().st_mtime

    async def repeat(self, applied: Applied) -> None:
        self.again.append(applied.sequence)

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.asleep()

    async def run(self, terms: str = "") -> list[tuple[str, str]]:
        """One pass: of each bundle its set and sequence, and its fate."""
        return [(each.what.partition(" (")[0], each.fate.value) for each in await self.taken(terms)]

    async def taken(self, terms: str = "") -> list[Taken]:
        taking = Taking(
            self.ledger,
            self.root,
            10.0,
            apply=self.apply,
            again=self.repeat,
            actor="ann",
            terms=terms,
            now=lambda: self.disk_clock() + self.ahead,
            clock=lambda: self.clock,
            sleep=self.sleep,
        )
        return await taking.run()

    async def refusals(self) -> list[str]:
        """The codes that the journal has."""
        events = await self.ledger.events(limit=1000)
        return [each.body["code"] for each in events if each.kind is EventKind.REFUSED]


def _manifest(sequence: int, name: str = "site-a") -> BundleManifest:
    carried = Carried(Digest.of(f"{name} {sequence}".encode()), 1)
    return BundleManifest(name, (), (), (carried,), ())


def bundle(
    folder: Path, sequence: int, name: str = "site-a", *, volume: Path | None = None, signature: bool = True
) -> None:
    """What a bundle looks like from outside. `volume`: the folder of its volume; None: the same."""
    manifest = _manifest(sequence, name)
    said = BundleStatement.about(
        manifest,
        origin=ORIGIN,
        sequence=sequence,
        created=NOW,
        expires=NOW + timedelta(days=90),
        journal=Digest.of(b"{}"),
    )
    _written(folder / "bundle.json", manifest.dump())
    _written((volume or folder) / "volume-001.tar", _volume(manifest))
    if signature:
        _written(folder / file_of(KEY.public), signed(said, KEY))


def _volume(manifest: BundleManifest) -> bytes:
    entry = volumes_of(manifest)[0].entries[0]
    return entry.header + entry.content.data  # type: ignore[union-attr]  # each volume begins with what it is


def _written(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@asynccontextmanager
async def an_inbox(folder: Path) -> AsyncIterator[Inbox]:
    root = folder / "in"
    root.mkdir(exist_ok=True)
    ledger = await Ledger.open(folder / "ledger.db", store_identity="s", store_is_empty=True, now=lambda: NOW)
    try:
        yield Inbox(root, ledger)
    finally:
        await ledger.close()


async def test_in_their_order_and_once(tmp_path: Path) -> None:
    """Bundles in the folder and in folders in it are applied by sequence; another pass applies none, and the folder is
    as it was.
    """
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root, 2)
        bundle(inbox.root / "z", 1)
        bundle(inbox.root / "a", 3)
        bundle(inbox.root / "b", 1, "site-b")
        before = _everything(inbox.root)
        assert [("site-a 1", "applied"), ("site-a 2", "applied"), ("site-a 3", "applied"), ("site-b 1", "applied")] == (
            await inbox.run()
        )
        assert [1, 2, 3, 1] == inbox.applied
        fates = dict(await inbox.run())
        assert {"site-a 1": "older", "site-a 2": "older", "site-a 3": "known", "site-b 1": "known"} == fates
        assert ([1, 2, 3, 1], [3, 1]) == (inbox.applied, inbox.again)
        assert before == _everything(inbox.root)


def _everything(root: Path) -> list[tuple[str, int, bytes]]:
    files = (each for each in root.rglob("*") if each.is_file())
    return sorted((str(each), each.stat().st_mtime_ns, each.read_bytes()) for each in files)


async def test_the_media_of_one_bundle(tmp_path: Path) -> None:
    """Folders whose parts are of one bundle are one; volumes whose documents are elsewhere wait for them."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root / "one", 1, volume=inbox.root / "two")
        assert [("site-a 1", "applied")] == await inbox.run()
        _written(inbox.root / "three" / "volume-002.tar", _volume(_manifest(2)))
        last = (await inbox.taken())[0]
        assert (Fate.WAITING, "waits for its bundle.json") == (last.fate, last.said)
        bundle(inbox.root / "four", 2, volume=inbox.root / "three")
        assert ("site-a 2", "applied") in await inbox.run()


async def test_what_a_stranger_says_beside_it(tmp_path: Path) -> None:
    """A stranger's signature, which counts for nothing, cannot have a bundle pass for an old one, or one applied."""
    async with an_inbox(tmp_path) as inbox:
        for sequence in (5, 6):
            folder = inbox.root / str(sequence)
            bundle(folder, sequence)
            said = statement_in(exact((folder / file_of(KEY.public)).read_bytes()).payload)
            for number, other in enumerate((replace(said, sequence=1), replace(said, manifest=Digest.of(b"another")))):
                _written(folder / f"bundle..{number}.sigstore.json", signed(other, PrivateKey.made()))
            assert ("site-a " + str(sequence), "applied") in await inbox.run()
        assert [5, 6] == inbox.applied


async def test_what_is_unsigned_yet(tmp_path: Path) -> None:
    """A bundle without a signature waits for one."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root / "one", 1, signature=False)
        (taken,) = await inbox.taken()
        assert (Fate.WAITING, "waits for a signature") == (taken.fate, taken.said)


async def test_what_is_arriving(tmp_path: Path) -> None:
    """What changes is waited for and holds up nothing else; it is applied in the same pass, once it rests."""
    async with an_inbox(tmp_path) as inbox:
        inbox.ahead = 0.0
        bundle(inbox.root / "old", 1, "site-b")
        bundle(inbox.root / "new", 1)
        growing = inbox.root / "new" / "volume-001.tar"
        applied: list[list[int]] = []

        def grows() -> None:
            applied.append(list(inbox.applied))
            if inbox.clock < 30:
                growing.write_bytes(growing.read_bytes() + b"more")

        inbox.asleep = grows
        assert {("site-b 1", "applied"), ("site-a 1", "applied")} == set(await inbox.run())
        assert (39, 2) == (round(inbox.clock), len(inbox.applied))  # ten seconds after it grew last
        assert [1] == applied[15]  # the one that rested, ten seconds after it was seen first


async def test_an_earlier_one_that_is_not_all_there(tmp_path: Path) -> None:
    """What needs an earlier bundle waits for it, and is no refusal; both are applied once the earlier one is whole."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root / "one", 1)
        bundle(inbox.root / "two", 2)
        inbox.wrong = {1: BundleRefused("volume-missing", "volume-002.tar is not here"), 2: _needs()}
        first, second = await inbox.taken()
        assert (Fate.WAITING, "volume-002.tar is not here") == (first.fate, first.said)
        assert (Fate.WAITING, "waits for sequence 1, which is not all here") == (second.fate, second.said)
        assert [] == await inbox.refusals()
        inbox.wrong = {}
        assert [("site-a 1", "applied"), ("site-a 2", "applied")] == await inbox.run()


async def test_what_needs_something_that_is_arriving(tmp_path: Path) -> None:
    """While anything is arriving a missing base is no refusal; what waits is tried again when that is taken."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root / "two", 2)
        bundle(inbox.root / "one", 1)
        inbox.needs = {2: {1}}
        future = inbox.disk_clock() + 86_400  # from a machine whose clock is ahead: old it will never look
        os.utime(inbox.root / "one" / "bundle.json", (future, future))
        assert [("site-a 1", "applied"), ("site-a 2", "applied")] == await inbox.run()
        assert ([1, 2], []) == (inbox.applied, await inbox.refusals())


def _needs() -> BundleRefused:
    return BundleRefused("missing-base", "3 blobs that it needs are not here")


async def test_a_refusal_is_told_once(tmp_path: Path) -> None:
    """It is journaled once, holds up no other set, and is not tried again before content or terms changed."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root / "a", 1)
        bundle(inbox.root / "b", 1, "site-b")
        inbox.wrong = {1: BundleRefused("volume-damaged", "volume-001.tar is damaged")}
        assert [("site-a 1", "refused"), ("site-b 1", "refused")] == await inbox.run()
        inbox.wrong = {}
        assert [("site-a 1", "refused-before"), ("site-b 1", "refused-before")] == await inbox.run()
        assert (["volume-damaged"] * 2, []) == (await inbox.refusals(), inbox.applied)
        volume = inbox.root / "a" / "volume-001.tar"
        _written(volume, volume.read_bytes())  # copied again
        assert [("site-a 1", "applied"), ("site-b 1", "refused-before")] == await inbox.run()
        assert [("site-a 1", "known"), ("site-b 1", "applied")] == await inbox.run("other keys")


@pytest.mark.parametrize("code", ["missing-base", "conflict", "expired", "untrusted-key"])
async def test_what_the_site_can_settle(tmp_path: Path, code: str) -> None:
    """Where something else than the content may help, it is tried at each pass, and told once."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root, 1)
        inbox.wrong = {1: BundleRefused(code, "not yet")}
        assert ["refused", "refused-before"] == [(await inbox.run())[0][1] for _ in range(2)]
        inbox.wrong = {}
        assert ([("site-a 1", "applied")], [code]) == (await inbox.run(), await inbox.refusals())


async def test_what_cannot_be_taken_now(tmp_path: Path) -> None:
    """A full disk is no word about the bundle: nothing is journaled, and the next pass tries again."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root, 1)
        inbox.wrong = {1: StoreFull("the disk is full")}
        assert [("site-a 1", "failed")] == await inbox.run()
        inbox.wrong = {}
        assert ([("site-a 1", "applied")], []) == (await inbox.run(), await inbox.refusals())


async def test_strange_things(tmp_path: Path) -> None:
    """Links, pipes, sockets, other files and empty folders are nothing; a document that is none is refused."""
    async with an_inbox(tmp_path) as inbox:
        outside = tmp_path / "outside"
        bundle(outside, 1)
        (inbox.root / "link").symlink_to(outside)
        (inbox.root / "bundle.json").symlink_to(outside / "bundle.json")
        os.mkfifo(inbox.root / "volume-001.tar")
        (inbox.root / "empty").mkdir()
        bundle(inbox.root / ".Trash-1000", 1)
        bundle(inbox.root / "incomplete", 1)
        _written(inbox.root / "notes" / "readme.txt", b"hello")
        assert [] == await inbox.run()
        _written(inbox.root / "broken" / "bundle.json", b"{}")
        _written(inbox.root / "broken" / file_of(KEY.public), b"{}")
        (taken,) = await inbox.taken()
        assert Fate.WAITING == taken.fate  # no signature that says anything


async def test_a_folder_with_two(tmp_path: Path) -> None:
    """A folder that holds parts of two bundles is told: each needs one of its own; the one with documents is taken."""
    async with an_inbox(tmp_path) as inbox:
        bundle(inbox.root, 1)
        _written(inbox.root / "volume-002.tar", _volume(_manifest(7)))
        fates = {each.fate: each.said for each in await inbox.taken()}
        assert {Fate.APPLIED, Fate.UNREADABLE} == set(fates)
        assert "give each a folder" in fates[Fate.UNREADABLE]


async def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is told."""
    async with an_inbox(tmp_path) as inbox:
        inbox.root.rmdir()
        (taken,) = await inbox.taken()
        assert (Fate.UNREADABLE, "cannot be read: No such file or directory") == (taken.fate, taken.said)
