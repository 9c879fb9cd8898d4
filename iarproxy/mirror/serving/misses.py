"""What is told of a tag that is not here and cannot be had.

Rule 1: offline it is remembered for a moment, so that a flood of questions costs the ledger nothing: until a bundle is
        applied or somebody changes the tag, and `_FOR` at most.
Rule 2: what runtimes look for at each pull is answered so that the pull of what we hold goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from iarproxy.errors import Offline, Refused, Unavailable, UnknownManifest
from iarproxy.ledger import Pin
from iarproxy.ledger.memory import Memory
from iarproxy.oci import TagReference

_REMEMBERED = 10_000
_FOR = timedelta(seconds=10)


class Misses:
    """What is not here of the tags of one environment. `now`: aware, UTC."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        # words and not the failure itself, which would keep all the frames alive through which it was raised
        self._missed: Memory[TagReference, tuple[str, dict[str, str | int], datetime]] = Memory(_REMEMBERED)

    def insist(self, reference: TagReference) -> None:
        """Go on unless the tag was missed a moment ago.

        Raises:
            Offline: what was told then.
        """
        missed = self._missed.get(reference)
        if missed is not None and abs(self._now() - missed[2]) < _FOR:
            raise Offline(missed[0], **missed[1])

    def note(self, reference: TagReference, pin: Pin | None, error: Offline) -> Offline:
        """What is told of a tag that is missed: one that has a pin whose content is not here is told apart."""
        if pin is not None:
            pinned = str(pin.descriptor.digest)
            told = f"{pin.name} is pinned to {pinned}, whose content is not here: {error}"
            error = Offline(told, **error.detail | {"pinned": pinned})
        self._missed.put(reference, (str(error), error.detail, self._now()))
        return error

    def forget(self, reference: TagReference | None) -> None:
        """Remember nothing of the tag; None: nothing at all."""
        if reference is None:
            self._missed.clear()
        else:
            self._missed.drop(reference)


def unseen(reference: TagReference, error: Unavailable | Refused) -> Unavailable | Refused:
    """What a followed tag that was never seen is to a client, now that upstream gives nothing.

    Runtimes look for signatures of an image at each pull, and an error fails the pull of what we hold (clients.md
    section 10, item 32). A verifier that finds no signature fails closed.
    """
    if isinstance(error, Unavailable) and not isinstance(error, Offline) and reference.tag.is_attachment:
        return UnknownManifest(f"{reference} was never seen, and its upstream gives no answer: {error}")
    return error
