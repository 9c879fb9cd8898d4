"""Who vouches for the bundle in open folders: as `trust.bundles` judges it, with the file named that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from iarproxy.archive.folder import BundleFolder
from iarproxy.errors import BundleRefused, Malformed
from iarproxy.trust import rotations
from iarproxy.trust.bundle import exact
from iarproxy.trust.bundles import Vouched, vouched
from iarproxy.trust.signing import PublicKey


def vouched_in(
    folder: BundleFolder,
    trusted: Sequence[Sequence[PublicKey]],
    *,
    threshold: int | None = None,
    retired: Sequence[bytes] = (),
) -> Vouched:
    """What a bundle is, if enough of those who are trusted say so; arguments and errors as of `bundles.vouched`."""
    insist_on_documents(folder)
    return vouched(
        folder.signatures,
        folder.manifest,
        trusted,
        threshold=threshold,
        rotations=folder.rotations,
        retired=retired,
    )


def insist_on_documents(folder: BundleFolder) -> None:
    """Return if all that should be a signature or a rotation is one, whoever made it.

    Raises:
        BundleRefused: `malformed`: names the file that is none.
    """
    _each(folder, folder.signatures, exact)
    _each(folder, folder.rotations, rotations.insist)


def _each(folder: BundleFolder, documents: Iterable[bytes], check: Callable[[bytes], object]) -> None:
    for raw in documents:
        try:
            check(raw)
        except Malformed as error:
            where = folder.where[raw]
            raise BundleRefused("malformed", f"{where}: {error}; copy it again, or take it away") from error
