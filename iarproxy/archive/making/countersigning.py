"""A further signature over a bundle, by somebody else, on another machine: over the very bytes that others signed.

Rule 1: what is signed is the statement that lies beside the bundle, byte for byte; it is never written anew. It has to
        fit the `bundle.json` and `journal.json` there, and all signatures there have to be over it.
Rule 2: whether the others' signatures hold is only said where the person says whom to trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iarproxy.archive.evidence import checked
from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.vouching import insist_on_documents, vouched_in
from iarproxy.errors import BundleRefused, Malformed, Refused
from iarproxy.trust.bundle import exact, signed_bundle
from iarproxy.trust.bundles import MAX_SIGNATURES, BundleStatement, as_signed, statement_in
from iarproxy.trust.signing import PrivateKey, PublicKey


@dataclass(frozen=True, slots=True)
class Signable:
    """What there is to sign. `payload`: the statement, as others signed it; `hints`: of their keys."""

    statement: BundleStatement
    payload: bytes
    hints: tuple[str, ...]

    def signed(self, key: PrivateKey) -> bytes:
        """The signature's file.

        Raises:
            Refused: the key signed it before, or it has as many signatures as a reader takes.
        """
        if key.public.hint in self.hints:
            raise Refused(f"the key {key.public.fingerprint[:16]} signed the bundle already")
        if len(self.hints) >= MAX_SIGNATURES:
            raise Refused(f"the bundle has {len(self.hints)} signatures, and no site reads one that has more")
        return signed_bundle(self.payload, key)


def signable(folder: BundleFolder, trusted: Sequence[Sequence[PublicKey]] = ()) -> Signable:
    """What a further signer of the bundle in a folder signs; `trusted`: who have to have signed it.

    Raises:
        BundleRefused: its parts do not fit each other, or one of the trusted did not sign it.
    """
    insist_on_documents(folder)
    envelopes = [exact(each) for each in folder.signatures]
    payloads = {each.payload for each in envelopes}
    if len(payloads) != 1:
        what = "different statements are signed" if payloads else "nothing is signed"
        raise BundleRefused("too-few-signatures", f"{what} in {', '.join(folder.folders)}; have the bundle made again")
    if trusted:
        vouched_in(folder, trusted)
    (payload,) = payloads
    try:
        said = statement_in(payload)
    except Malformed as error:
        raise BundleRefused("malformed", str(error)) from error
    manifest = as_signed(folder.manifest, said)
    if folder.journal is None:
        raise BundleRefused("manifest-altered", "journal.json, which is signed, is missing")
    checked(folder.journal, said, manifest)
    return Signable(said, payload, tuple(each.hint for each in envelopes))
