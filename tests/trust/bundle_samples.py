"""A bundle's manifest, its statement and signers, for tests of what is judged of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.bundle_manifest import BundledAttachment, BundledName, BundleManifest, Carried
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from iarproxy.trust.bundles import BundleStatement, Vouched, signed, vouched
from iarproxy.trust.signing import PrivateKey, PublicKey

REPOSITORY = Repository("registry.example.com", "team/app")
MADE, EXPIRES = datetime(2026, 11, 22, 12, tzinfo=UTC), datetime(2027, 2, 20, 12, tzinfo=UTC)
JOURNAL = b"{}"


def content(text: str, media_type: str = OCI_MANIFEST) -> Descriptor:
    return Descriptor(media_type, Digest.of(text.encode()), len(text))


def named(tag: str) -> BundledName:
    return BundledName(TagReference(REPOSITORY, Tag(tag)), content(tag), listed=True)


def _carried(*texts: str) -> tuple[Carried, ...]:
    return tuple(sorted((Carried(Digest.of(each.encode()), len(each)) for each in texts), key=lambda each: each.digest))


SUBJECT = content("1.0").digest
ATTACHED = BundledAttachment(
    TagReference(REPOSITORY, Tag(f"sha256-{SUBJECT.hex}")),
    content("referrers", OCI_INDEX),
    tuple(sorted((content("signature").digest, content("sbom").digest))),
)
MANIFEST = BundleManifest(
    set="site-a",
    names=(named("1.0"), named("2.0")),
    attachments=(ATTACHED,),
    provides=_carried("1.0", "2.0", "referrers", "signature", "sbom"),
    requires=(Digest.of(b"held already"),),
)


def about(manifest: BundleManifest = MANIFEST, **changes: Any) -> BundleStatement:
    said = BundleStatement.about(
        manifest, origin="iarproxy/origin", sequence=7, created=MADE, expires=EXPIRES, journal=Digest.of(JOURNAL)
    )
    return replace(said, **changes)


def vouch(
    *keys: PrivateKey, trusted: Sequence[Sequence[PublicKey]], manifest: BundleManifest = MANIFEST, **given: Any
) -> Vouched:
    """The judgement on a bundle that `keys` signed."""
    return vouched([signed(about(manifest), key) for key in keys], manifest.dump(), trusted, **given)
