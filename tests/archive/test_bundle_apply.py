"""What applying a bundle makes of names: updates, conflicts, policy, recalls; and what a rebuilt ledger gets again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airgap_bundles import APP, SET, TOOL, Made, create, fresh_site, made, wanted
from airgap_sets import Rooms
from airgap_world import UPSTREAM, Place, a_site
from iarproxy.archive.applying.naming import Naming, Prefer
from iarproxy.archive.applying.site import Done, Order, Outcome, Site, Unchanged
from iarproxy.archive.folder import BundleFolder
from iarproxy.errors import Denied
from iarproxy.ledger import DEFAULT, EventKind
from iarproxy.oci import Digest, Tag, TagReference, parse_reference
from iarproxy.oci.set_record import tag_of
from iarproxy.store import Store
from iarproxy.trust import Mode, Pattern, TagRule
from iarproxy.trust.environments import FIRST_FETCHES, Environment, PinsFrom
from iarproxy.trust.receipts import receipt_in, receipt_of
from iarproxy.trust.signing import KeyType, PrivateKey, PublicKey


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def second(first: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The set has other content by then."""
    first.origin.sync(SET, wanted(50))
    return create(first.origin, tmp_path_factory.mktemp("second") / "bundle", "--full")


@pytest.fixture
def site(tmp_path: Path) -> Place:
    return fresh_site(tmp_path / "site")


def order(bundle: Made, prefer: Prefer | None = None) -> Order:
    return Order([[PublicKey.parse(bundle.public.read_bytes())]], "monthly", "ann", prefer=prefer)


async def apply(
    rooms: Rooms,
    bundle: Made,
    *,
    prefer: Prefer | None = None,
    rules: tuple[TagRule, ...] = (),
    environment: Environment = FIRST_FETCHES,
    upstreams: tuple[str, ...] = (UPSTREAM,),
) -> Outcome:
    naming = Naming(rooms.ledger, upstreams, rules, environment)
    doing = Site(rooms.store, rooms.ledger, naming, lambda: datetime.now(UTC))
    with BundleFolder.open([bundle.folder]) as folder:
        return await doing.apply(folder, order(bundle, prefer))


def test_a_name_that_changed_at_the_origin_is_a_conflict(first: Made, second: Made, site: Place) -> None:
    """What an earlier bundle pinned, a later one changes only where somebody says so; the journal has both."""
    site.done(*first.applying())
    before = site.pins()
    said = site.refused("conflict", *second.applying()).json["error"]
    assert "as bundle 1 of its set" in said
    assert before == site.pins()
    site.done(*second.applying("--prefer", "bundle"))
    assert second.origin.pins() == site.pins()

    async def look(rooms: Rooms) -> list[tuple[EventKind, int]]:
        return [(each.kind, each.body["sequence"]) for each in await rooms.ledger.history(tag_of(APP))]

    assert [(EventKind.IMPORTED, 1), (EventKind.IMPORTED, 2)] == site.within(look)


def test_a_person_in_between_makes_a_conflict(first: Made, second: Made, site: Place) -> None:
    """What somebody here changed or removed since is listed, with who did it, and stays unless the bundle wins."""
    site.done(*first.applying())

    async def act(rooms: Rooms) -> None:
        pin = await rooms.ledger.pin_of(tag_of(APP))
        other = await rooms.ledger.pin_of(tag_of(TOOL))
        assert pin is not None
        assert other is not None
        await rooms.ledger.remove(tag_of(APP), pin.descriptor.digest, reason="bad", actor="bob")
        await rooms.ledger.repin(
            tag_of(TOOL), other.descriptor.digest, pin.descriptor, reason="r", actor="bob", source="s"
        )

    site.within(act)
    before = site.pins()
    said = site.refused("conflict", *second.applying()).json["error"]
    assert f"{APP} was removed here by bob" in said
    assert f"{TOOL} is " in said
    assert before == site.pins()
    ended = site.done(*second.applying("--prefer", "site", "--json")).json
    assert {APP, TOOL} <= {each["reference"] for each in ended["kept"]}
    assert APP not in site.pins()
    assert before[TOOL] == site.pins()[TOOL]


def test_the_bundle_wins(first: Made, site: Place) -> None:
    """A removed name is brought back where a person says that the bundle wins."""
    site.done(*first.applying())

    async def remove(rooms: Rooms) -> None:
        pin = await rooms.ledger.pin_of(tag_of(APP))
        assert pin is not None
        await rooms.ledger.remove(tag_of(APP), pin.descriptor.digest, reason="bad", actor="bob")

    site.within(remove)
    again = create(first.origin, site.folder / "again", "--full")
    site.refused("conflict", *again.applying())
    site.done(*again.applying("--prefer", "bundle", "--reason", "it was a mistake"))
    assert first.origin.pins() == site.pins()


def test_recalls_win(first: Made, site: Place) -> None:
    """Recalled content is refused with its recall; where the site wins, all but what leads to it is taken."""
    layer = next(iter(wanted().names[TOOL].blobs))

    async def recall(rooms: Rooms) -> None:
        await rooms.ledger.recalls.recall([layer], reason="CVE", actor="ann")

    site.within(recall)
    for words in ([], ["--prefer", "bundle", "--reason", "r"]):
        said = site.refused("conflict", *first.applying(*words)).json["error"]
        assert "was recalled" in said
        assert {} == site.pins()
    ended = site.done(*first.applying("--prefer", "site", "--reason", "r", "--json")).json
    assert [TOOL] == [each["reference"] for each in ended["kept"]]
    assert TOOL not in site.pins()
    assert APP in site.pins()


def test_tag_rules_count(second: Made, site: Place) -> None:
    """Tags that policy follows are followed, those that it refuses are left out and told."""
    rules = (TagRule(Pattern("**/app:*"), Mode.FOLLOW), TagRule(Pattern("**/tool:*"), Mode.REFUSE))

    async def work(rooms: Rooms) -> tuple[int, list[str], object, int]:
        done = await apply(rooms, second, rules=rules)
        assert isinstance(done, Done)
        pins = [str(pin.reference) for pin in await rooms.ledger.pins()]
        followed = await rooms.ledger.followed(tag_of(APP))
        assert followed is not None
        return len(done.names.skipped), pins, followed[0].digest, len(done.remarks)

    skipped, pins, followed, remarks = site.within(work)
    assert (1, [f"{UPSTREAM}/team/big:3"], wanted(50).names[APP].digest, 1) == (skipped, pins, followed, remarks)


def test_names_of_other_registries(second: Made, tmp_path: Path) -> None:
    """A registry that is no upstream here is named, with the section that is missing, before anything is read."""
    site = a_site(tmp_path / "site", upstreams=("other.example.com",))
    assert {} == site.pins()
    before = site.holdings()
    said = site.refused("conflict", *second.applying()).json["error"]
    assert f'[upstreams."{UPSTREAM}"]' in said
    assert before == site.holdings()


def test_an_environment_that_is_promoted_into(second: Made, site: Place) -> None:
    """No bundle pins there."""
    environment = Environment("prod", PinsFrom.PROMOTION)

    async def work(rooms: Rooms) -> None:
        with pytest.raises(Denied, match="promotion only"):
            await apply(rooms, second, environment=environment)

    site.within(work)


def test_another_environment(second: Made, site: Place) -> None:
    """The names of a bundle may go into a named environment, and nowhere else."""

    async def work(rooms: Rooms) -> tuple[int, int]:
        await apply(rooms, second, environment=Environment("staging"))
        return len(await rooms.ledger.pins()), len(await rooms.ledger.within("staging").pins())

    assert (0, 3) == site.within(work)


def test_many_at_once(second: Made, site: Place) -> None:
    """Of several applies of one bundle at the same time one does it, and all others find it done."""

    async def work(rooms: Rooms) -> list[type]:
        other = Store.open(site.store, max_size=10**12, reserve=0)
        try:
            both = [rooms, Rooms(other, rooms.ledger)]
            done = await asyncio.gather(*(apply(each, second) for each in (*both, *both)))
        finally:
            await other.close()
        return [type(each) for each in done]

    found = site.within(work)
    assert (1, 3) == (found.count(Done), found.count(Unchanged))
    assert second.origin.pins() == site.pins()
    assert [] == [path for name in ("ingest", "pieces") for path in (site.store / name).glob("*")]


def test_a_rebuilt_ledger_gets_attachments_again(second: Made, site: Place) -> None:
    """Followed tags and links, which no journal has, are set again from what was applied."""
    site.done(*second.applying())
    subject = wanted(50).names[APP].digest
    attached = TagReference(parse_reference(APP).repository, Tag.attached_to(subject))

    async def look(rooms: Rooms) -> tuple[bool, bool, str]:
        linked = await rooms.ledger.linked(attached.repository, subject)
        return await rooms.ledger.followed(attached) is not None, linked, (await rooms.ledger.environments())[0]

    assert (True, True, DEFAULT) == site.within(look)
    (site.store / "ledger.db").unlink()
    assert "1 bundles" in site.done("ledger", "rebuild").out
    assert (True, True, DEFAULT) == site.within(look)


def test_verify_tells_all_that_is_wrong(second: Made, tmp_path: Path) -> None:
    """Every damaged or missing volume is named, in one run."""
    broken = second.copy(tmp_path / "broken")
    broken.volume(3).unlink()
    entry = next(each for each in broken.volumes[0].pieces if each.content.size)
    with broken.volume(1).open("r+b") as file:
        file.seek(entry.data_at)
        file.write(b"\0\1\2\3")
    place = a_site(tmp_path / "any")
    whole = place.done("bundle", "verify", second.folder, "--trust", second.public, "--json").json
    assert (True, []) == (whole["ok"], whole["problems"])
    found = place.run("bundle", "verify", broken.folder, "--trust", second.public, "--json").json
    assert (False, "volume-damaged") == (found["ok"], found["code"])
    codes = [each["code"] for each in found["problems"]]
    assert ["volume-damaged", "volume-missing"] == codes
    assert "volume-001.tar" in found["problems"][0]["error"]


def test_content_that_the_manifest_does_not_list(second: Made, site: Place) -> None:
    """The digests of the closure are those of the manifest."""
    site.done(*second.applying())
    manifest = second.manifest
    listed = {str(each.digest) for each in manifest.provides}
    assert listed | {str(Digest.of(manifest.dump()))} == site.blobs()


def test_media_side_by_side(second: Made, site: Place, tmp_path: Path) -> None:
    """Volumes in several folders are one bundle; of two bundles at once none is taken."""
    left, right = second.copy(tmp_path / "left"), tmp_path / "right"
    right.mkdir()
    for number in (1, 3):
        left.volume(number).rename(right / f"part {number}")
    mixed = second.copy(tmp_path / "mixed").altered(second.manifest.dump() + b" ")
    trust: list[str | Path] = ["--trust", second.public]
    assert (
        "two bundles" in site.refused("malformed", "bundle", "apply", left.folder, mixed.folder, *trust).json["error"]
    )
    assert "cannot be opened" in site.refused("malformed", "bundle", "apply", left.public, *trust).json["error"]
    assert "no bundle.json" in site.refused("malformed", "bundle", "apply", right, *trust).json["error"]
    site.done("bundle", "apply", right, left.folder, *trust)
    assert second.origin.pins() == site.pins()


def test_a_receipt_is_written(second: Made, site: Place, tmp_path: Path) -> None:
    """Where it was asked for, else where the caller is; what was there is written anew; a refusal leaves none."""
    receipt = tmp_path / "receipt"
    site.run("bundle", "apply", second.folder, "--trust", second.origin.folder / "nobody.pub", "--receipt", receipt)
    assert not receipt.exists()
    site.done(*second.applying("--receipt", receipt))
    site.done("bundle", "receipt", SET, "--pub", tmp_path / "site.pub")
    keys = [PublicKey.parse((tmp_path / "site.pub").read_bytes())]
    said = receipt_in(receipt.read_bytes(), keys)
    longer = replace(said, held=tuple(sorted(Digest.of(b"%d" % number) for number in range(1_000))))
    receipt.write_bytes(receipt_of(longer, PrivateKey.made(KeyType.ECDSA)))
    site.done(*second.applying("--receipt", receipt))
    assert said.held == receipt_in(receipt.read_bytes(), keys).held
    site.done(*second.applying())
    assert (site.folder / f"{SET}.receipt").read_bytes().startswith(b"{")
    ended = site.run(*second.applying("--receipt", tmp_path / "no folder" / "receipt"))
    assert (1, True) == (ended.code, "receipt" in ended.err)
