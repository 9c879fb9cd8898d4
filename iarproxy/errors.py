"""What can go wrong, and the one question a caller asks of it: is another try worth anything?

Rule 1: a failure is `Refused` (the answer is no; asking again changes nothing) or `Unavailable`
        (no answer was to be had; only this kind is retried).
Rule 2: exceptions of foreign libraries are translated into these at the edge where they arise.
Rule 3: a message names what failed, where, and the remedy; it is shown to people and never holds a secret.
Rule 4: nothing here knows HTTP: `server.errors` alone maps these types to statuses and OCI codes.
"""

from __future__ import annotations


class IarproxyError(Exception):
    """Root of all failures that iarproxy raises on purpose.

    Attributes:
        detail: facts for machines (digests, upstream, causes); JSON-serialisable, never a secret.
    """

    def __init__(self, message: str, **detail: str | int | None) -> None:
        super().__init__(message)
        self.detail = {key: value for key, value in detail.items() if value is not None}


class Refused(IarproxyError):
    """The answer is no, and it will be no again."""


class Unavailable(IarproxyError):
    """No answer was to be had; a later try may get one.

    Attributes:
        retry_after: seconds to wait before another try, where somebody said so; None: nobody did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **detail: str | int | None) -> None:
        super().__init__(message, **detail)
        self.retry_after = retry_after


# --- refused ---------------------------------------------------------------------------------------------------------


class Malformed(Refused):
    """Input that does not parse: a digest, name, tag, request target or document."""


class DigestInvalid(Malformed):
    """A digest that is not `sha256:<64 hex>` or `sha512:<128 hex>`."""


class NameInvalid(Malformed):
    """A repository or tag name outside the distribution-spec grammar."""


class ManifestInvalid(Malformed):
    """A document that is no acceptable manifest or index."""


class UnknownName(Refused):
    """The registry or repository does not exist for us (closed list of upstreams) or upstream denies it."""


class UnknownManifest(Refused):
    """The repository has no such tag or manifest."""


class UnknownBlob(Refused):
    """The repository has no such blob."""


class Denied(Refused):
    """Policy, or upstream's access control, says no.

    Attributes:
        reason: why, as one word of a few, such as `tag-drift`: it is counted by.
    """

    def __init__(self, message: str, reason: str = "policy", **detail: str | int | None) -> None:
        super().__init__(message, **detail)
        self.reason = reason


class Recalled(Denied):
    """Content that a person recalled, that contains such content, or that cannot be looked through for it."""

    def __init__(self, message: str, **detail: str | int | None) -> None:
        super().__init__(message, "recalled", **detail)


class Stopped(Denied):
    """Policy says no, in the form that ends the pull of a client which would go on to the real upstream otherwise.

    The client's own error will show the reason.
    """


class RangeUnsatisfiable(Refused):
    """A byte range that starts behind the end of the blob of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range starts at or behind the end of the blob ({size} bytes)", size=size)
        self.size = size


class Unsupported(Refused):
    """A method or endpoint that a read-only mirror does not offer."""


class ConfigError(Refused):
    """A configuration, store or environment that iarproxy will not start with; one line that names the remedy."""


class BundleRefused(Refused):
    """A bundle, volume or receipt that is not taken; nothing of it is served.

    Attributes:
        code: why, as one word of a few (docs/airgap.md lists them), such as `expired`: scripts go by it.
    """

    def __init__(self, code: str, message: str, **detail: str | int | None) -> None:
        super().__init__(message, code=code, **detail)
        self.code = code


class Conflict(Refused):
    """A compare-and-swap that lost: the pin is not what the caller said it was."""


# --- unavailable -----------------------------------------------------------------------------------------------------


class Offline(Unavailable):
    """Nobody was asked, for this site is offline, and what was asked for is not held; it says what would bring it.

    No word of upstream's: it tells nothing of what there is. Clients are told that there is none, all the same.
    """

    def __init__(self, message: str, **detail: str | int | None) -> None:
        super().__init__(message, retry_after=None, **detail)


class UpstreamUnavailable(Unavailable):
    """Upstream did not answer, or answered with a failure of its own."""


class UpstreamTimeout(UpstreamUnavailable):
    """Upstream did not answer in time."""


class UpstreamBusy(UpstreamUnavailable):
    """Upstream said 429: its rate limit is used up."""


class UpstreamHeld(UpstreamBusy):
    """Upstream is not asked now: it said 429 a moment ago, its quota is kept for clients, or too many wait for it."""


class UpstreamDown(UpstreamUnavailable):
    """Upstream is not asked now: it failed several times in a row, and is probed seldom."""


class UpstreamWrong(UpstreamUnavailable):
    """Upstream answered bytes, a length or a header that contradict the digest: nothing of it is kept."""


class UpstreamLoops(UpstreamWrong):
    """A request came back to the instance that had sent it: an upstream's url leads, perhaps by detours, to itself."""


class StoreUnavailable(Unavailable):
    """The store cannot take or give content now (disk full, input/output error)."""


class StoreFull(StoreUnavailable):
    """No room for another blob; what is held is still served."""


class LedgerUnavailable(Unavailable):
    """The ledger cannot answer (locked, unreadable): nothing is guessed in its place."""


class LedgerDamaged(LedgerUnavailable):
    """A row or the journal fails its checksum. Served as 503; repaired by `iarproxy ledger restore|rebuild`."""
