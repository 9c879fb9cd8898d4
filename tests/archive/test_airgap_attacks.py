"""What carriers, liars among trusted origins, and other bundles may try on a site, as another pair of eyes did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from airgap_bundles import APP, Made, fresh_site, made
from airgap_sets import Rooms, Wanted, hold, referrers_of
from airgap_world import Place, an_origin
from iarproxy import config
from iarproxy.cli.wiring import open_rooms
from iarproxy.errors import BundleRefused
from iarproxy.oci import Digest, Tag, TagReference, parse_manifest, parse_reference
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.trust.note import Checkpoint, Note, SigningKey
from images import Published, artifact, random_blob, small_image
from test_airgap_fresh_eyes import apply
from test_airgap_lies import told


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", ["rotation.0123456789abcdef.sigstore.json", "bundle.0123456789abcdef.sigstore.json"])
@pytest.mark.parametrize("raw", [b"", b"junk", b"{}", b"[" * 10_000])
def test_a_junk_signature_is_named(good: Made, tmp_path: Path, name: str, raw: bytes) -> None:
    """A file that should be a signature or a rotation and is none is refused by its name, for it can be taken away."""
    site, bundle = fresh_site(tmp_path / "site"), good.copy(tmp_path / "bundle")
    (bundle.folder / name).write_bytes(raw)
    verify: list[str | Path] = ["bundle", "verify", bundle.folder, "--trust", bundle.public]
    sign: list[str | Path] = ["bundle", "sign", bundle.folder, "--key", bundle.origin.folder / "team.key"]
    for words in (bundle.applying("--json"), [*verify, "--json"], sign):
        ended = site.run(*words)
        assert (1, True) == (ended.code, name in f"{ended.out}{ended.err}"), ended
    (bundle.folder / name).unlink()
    site.done(*verify)


def test_a_junk_rotation_beside_the_key_is_named(origin: Place, tmp_path: Path) -> None:
    """So is one that lies beside the key of whoever makes or signs a bundle."""
    junk = origin.folder / "rotation.0123456789abcdef.sigstore.json"
    junk.write_bytes(b"junk")
    origin.sync("one", {APP: IMAGE})
    key, words = origin.folder / "team.key", ("--sets", origin.sets_file, "--full", "-o", tmp_path / "one")
    ended = origin.run("bundle", "create", "one", "--key", key, *words)
    assert (1, True) == (ended.code, junk.name in ended.err), ended
    junk.unlink()
    origin.done("bundle", "create", "one", "--key", key, *words)


def _fewer(manifest: BundleManifest) -> BundleManifest:
    first = manifest.attachments[0]
    return replace(manifest, attachments=(replace(first, manifests=first.manifests[1:]), *manifest.attachments[1:]))


def _others(manifest: BundleManifest) -> BundleManifest:
    first = manifest.attachments[0]
    other = replace(first, manifests=(manifest.names[0].descriptor.digest,))
    return replace(manifest, attachments=(other, *manifest.attachments[1:]))


@pytest.mark.parametrize("lie", [_fewer, _others])
def test_edges_that_are_none(good: Made, tmp_path: Path, lie: Callable[[BundleManifest], BundleManifest]) -> None:
    """What the manifest says of who refers to an image is what the list of its referrers says, or the bundle lies."""
    site, lying = fresh_site(tmp_path / "site"), told(good, tmp_path / "bundle", lie(good.manifest))
    site.refused("incomplete", "bundle", "verify", lying.folder, "--trust", lying.public)
    assert str(good.manifest.attachments[0].reference) in site.refused("incomplete", *lying.applying()).json["error"]
    assert {} == site.pins()


# --- bundles of several sets ------------------------------------------------------------------------------------------

IMAGE = small_image(1)
FALLBACK = TagReference(parse_reference(APP).repository, Tag.attached_to(IMAGE.digest))
SBOM, SIGNATURE = (artifact(IMAGE, data=each) for each in (b"an SBOM", b"a signature"))


def of_set(origin: Place, name: str, *attached: Published) -> Made:
    """A full bundle of a set with that image, with what is attached to it at that time."""
    origin.sync(name, Wanted({APP: IMAGE}, {APP: attached}))
    folder, key = origin.folder / f"bundle-{name}", origin.folder / "team.key"
    origin.done("bundle", "create", name, "--sets", origin.sets_file, "--key", key, "--full", "-o", folder)
    return Made(origin, folder)


def attached_at(site: Place) -> set[Digest]:
    """What the site's list of referrers of the image names; all of it, and the list itself, can be asked for."""

    async def look(rooms: Rooms) -> set[Digest]:
        known = await rooms.ledger.followed(FALLBACK)
        assert known is not None
        raw = await rooms.store.read(known[0].digest, 2**20)
        assert raw is not None
        found = {each.descriptor.digest for each in parse_manifest(raw).children}
        linked = [await rooms.ledger.linked(FALLBACK.repository, each) for each in (known[0].digest, *found)]
        assert [True] * len(linked) == linked
        return found

    return site.within(look)


@pytest.fixture
def origin(tmp_path: Path) -> Place:
    place = an_origin(tmp_path / "origin")
    place.done("keys", "create", "team")
    return place


def test_an_older_list_of_another_set(origin: Place, tmp_path: Path) -> None:
    """A bundle of another set, made when less was attached, takes no signature away; nor does applying it again."""
    site, early, late = (
        fresh_site(tmp_path / "site"),
        of_set(origin, "early", SBOM),
        of_set(origin, "late", SBOM, SIGNATURE),
    )
    for bundle in (late, early):
        site.done(*bundle.applying())
        assert {SBOM.digest, SIGNATURE.digest} == attached_at(site)
    site.done(*late.applying())
    assert "unchanged" in site.done(*early.applying()).out
    assert {SBOM.digest, SIGNATURE.digest} == attached_at(site)
    (site.store / "ledger.db").unlink()
    site.done("ledger", "rebuild")
    assert {SBOM.digest, SIGNATURE.digest} == attached_at(site)


def test_lists_that_differ(origin: Place, tmp_path: Path) -> None:
    """What two bundles attach to one image is attached, all of it, whichever came first."""
    one, two = of_set(origin, "one", SBOM), of_set(origin, "two", SIGNATURE)
    for number, bundles in enumerate(((one, two), (two, one))):
        site = fresh_site(tmp_path / f"site{number}")
        for bundle in bundles:
            site.done(*bundle.applying())
        assert {SBOM.digest, SIGNATURE.digest} == attached_at(site)
        site.done(*bundles[0].applying())
        assert {SBOM.digest, SIGNATURE.digest} == attached_at(site)


# --- what happens meanwhile -------------------------------------------------------------------------------------------


def test_a_recall_while_others_come(good: Made, tmp_path: Path) -> None:
    """What is recalled while a bundle is taken in is refused as if it had been recalled before."""
    site = fresh_site(tmp_path / "site")
    layer = Digest.of(random_blob(512, 1))  # of the first image

    async def work(rooms: Rooms) -> int:
        acts: list[asyncio.Task[object]] = []

        def taken(_: int, __: int) -> None:
            if not acts:
                acts.append(asyncio.create_task(rooms.ledger.recalls.recall([layer], reason="CVE", actor="ann")))

        with pytest.raises(BundleRefused, match="was recalled") as refused:
            await apply(rooms, good, told=taken)
        await asyncio.gather(*acts)
        assert "conflict" == refused.value.code
        return len(await rooms.ledger.pins())

    assert 0 == site.within(work)


def test_a_list_of_what_is_recalled(origin: Place, tmp_path: Path) -> None:
    """What was recalled here is not joined to what another bundle brings: that would deny all that is attached."""
    site = fresh_site(tmp_path / "site")
    one, two = of_set(origin, "one", SBOM), of_set(origin, "two", SIGNATURE)
    site.done(*one.applying())
    site.within(lambda rooms: rooms.ledger.recalls.recall([SBOM.digest], reason="bad", actor="ann"))
    site.done(*two.applying())
    assert {SIGNATURE.digest} == attached_at(site)

    async def asked() -> bytes:
        async with open_rooms(config.load(site.config, {}), {}) as rooms:
            return (await rooms.mirror.manifest(FALLBACK.repository, FALLBACK.tag)).raw

    assert [SIGNATURE.digest] == [each.descriptor.digest for each in parse_manifest(asyncio.run(asked())).children]


def test_a_list_of_what_is_not_held(origin: Place, tmp_path: Path) -> None:
    """What a site once read of an upstream's list, and does not hold, is listed no more: it could not be asked for."""
    site, bundle = fresh_site(tmp_path / "site"), of_set(origin, "one", SBOM)
    raw = referrers_of([artifact(IMAGE, data=b"elsewhere"), SIGNATURE])

    async def once_online(rooms: Rooms) -> None:
        index = parse_manifest(raw, OCI_INDEX).descriptor
        await rooms.store.put(index.digest, raw)
        await hold(rooms.store, SIGNATURE)
        await rooms.ledger.link(FALLBACK.repository, [SIGNATURE.digest])
        await rooms.ledger.set_followed(FALLBACK, index)

    site.within(once_online)
    site.done(*bundle.applying())
    assert {SBOM.digest, SIGNATURE.digest} == attached_at(site)


def test_a_followed_tag_again(origin: Place, tmp_path: Path) -> None:
    """Applying a bundle again moves no tag that policy follows back from what a later bundle of another set says."""
    site, later = fresh_site(tmp_path / "site"), small_image(2)
    site.config.write_text(f'{site.config.read_text()}[[tags]]\nmatch = "**"\nmode = "follow"\n')
    early = of_set(origin, "early")
    origin.sync("late", {APP: later})
    key, folder = origin.folder / "team.key", tmp_path / "late"
    origin.done("bundle", "create", "late", "--sets", origin.sets_file, "--key", key, "--full", "-o", folder)
    tag = parse_reference(APP)
    assert isinstance(tag, TagReference)
    for bundle, wanted in ((early, IMAGE), (Made(origin, folder), later), (early, later)):
        site.done(*bundle.applying())
        known = site.within(lambda rooms: rooms.ledger.followed(tag))
        assert known is not None
        assert wanted.digest == known[0].digest


def test_a_reason_that_no_journal_takes(good: Made, tmp_path: Path) -> None:
    """A reason that is too long is told before anything is taken, and not hours later."""
    site = fresh_site(tmp_path / "site")
    site.done("pins", "list")
    before = site.holdings()
    ended = site.run(*good.applying("--reason", "x" * 10_000))
    assert (1, True, before) == (ended.code, "needs a reason" in ended.err, site.holdings()), ended.err


# --- what is printed --------------------------------------------------------------------------------------------------


def test_an_origin_whose_name_steers_terminals(good: Made, tmp_path: Path) -> None:
    """What somebody calls his journal is printed as plain text where the journals of two bundles are compared."""
    for number, name in enumerate(("one\u202e", "two\u2066")):
        key = SigningKey(name, Ed25519PrivateKey.generate())
        note = Note.signed(Checkpoint(name, 1, bytes(32)).text(), [key])
        (tmp_path / str(number)).write_text(str(note))
    ended = good.origin.run("journal", "compare", tmp_path / "0", tmp_path / "1")
    assert (1, True) == (ended.code, "two journals: one  and two " in ended.out), ended
    assert ended.out.replace("\n", "").isprintable()
