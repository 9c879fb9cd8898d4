"""How a tag is refused: as an error, or with a manifest that stops clients which would ask the real upstream next.

Rule 1: a refusal manifest is content like any other: durable and linked before its digest is told, so that every worker
        answers for it by digest, below /manifests/ and below /blobs/.
Rule 2: it never becomes a pin, a followed tag or an answer to anybody who keeps manifests as content.
Rule 3: one that cannot be kept is no reason to let the client go on: it is answered all the same.
Rule 4: where clients choose the names that are refused, how many are kept is bounded: some at once, then few in a
        while. Those of drift are as many as pins, and always kept.
"""

from __future__ import annotations

import asyncio
from typing import assert_never

import structlog

from iarproxy.errors import Denied, Malformed, Stopped, StoreUnavailable
from iarproxy.ledger import DriftState, Pin
from iarproxy.mirror.serving.access import Access
from iarproxy.mirror.serving.answers import ManifestAnswer, RefusalAnswer
from iarproxy.mirror.serving.memory import ManifestMemory
from iarproxy.oci import Digest, TagReference, parse_manifest
from iarproxy.oci.refusal import EMPTY, Refusal, is_refusal, refuse
from iarproxy.store import Store
from iarproxy.trust import OnDrift, RefusalForm, TagRule
from iarproxy.trust.environments import Environment, PinsFrom, env_option

log = structlog.get_logger("iarproxy.mirror")

_REMEMBERED = 1024
_BURST = 256  # refusals with names that clients chose, kept at once; after that one for each pause
_PAUSE = 10.0  # seconds
_DRIFT = "tag-drift"


class Refusing:
    """Makes refusal manifests, and keeps them where they are asked for next."""

    def __init__(self, store: Store, access: Access, memory: ManifestMemory) -> None:
        self._store = store
        self._access = access
        self._memory = memory
        self._kept: dict[tuple[TagReference, Digest], None] = {}
        self._paid = float("-inf")  # the moment up to which the pauses that passed are used up

    async def answer(self, reference: TagReference, stopped: Stopped) -> RefusalAnswer:
        """The refusal manifest that says why the tag is not served."""
        facts = {"reference": str(reference), "message": str(stopped)}
        refusal = refuse(stopped.reason, {**facts, **{key: str(value) for key, value in stopped.detail.items()}})
        if (reference, refusal.digest) not in self._kept:
            await self._keep(reference, refusal, always=stopped.reason == _DRIFT)
        return RefusalAnswer(reference.repository, refusal)

    def _may_keep(self) -> bool:
        now = asyncio.get_running_loop().time()
        paid = max(self._paid, now - _BURST * _PAUSE) + _PAUSE
        if paid > now:
            return False
        self._paid = paid
        return True

    async def _keep(self, reference: TagReference, refusal: Refusal, *, always: bool) -> None:
        manifest = self._memory.learn(reference.repository, parse_manifest(refusal.raw))
        if not (always or self._store.find(refusal.digest) is not None or self._may_keep()):
            return
        try:
            await self._store.put(Digest.of(EMPTY), EMPTY)
            await self._store.put(refusal.digest, refusal.raw)
            await self._access.learn(reference.repository, manifest)
        except StoreUnavailable as error:
            log.warning("refusal manifest not kept", reference=str(reference), reason=str(error))
            return
        self._kept[reference, refusal.digest] = None
        if len(self._kept) > _REMEMBERED:
            del self._kept[next(iter(self._kept))]


def insist_on_image(reference: TagReference, answer: ManifestAnswer) -> None:
    """Raise where a person is about to pin what a client showed as the digest of a tag that was refused (rule 2).

    Raises:
        Malformed: that is what it is.
    """
    if is_refusal(answer.raw):
        digest = answer.descriptor.digest
        raise Malformed(
            f"{digest} is no image: it is how a mirror refuses a tag; `iarproxy explain {reference}` tells why"
        )


def refused_by_policy(form: RefusalForm, reason: str, message: str, **detail: str | int | None) -> Denied:
    """The refusal of a tag for another reason than drift, in the configured form."""
    match form:
        case RefusalForm.ERROR:
            return Denied(message, reason, **detail)
        case RefusalForm.STOP:
            return Stopped(message, reason, **detail)
        case _:
            assert_never(form)


def refused_by_rule(form: RefusalForm, rule: TagRule, reference: TagReference) -> Denied:
    """The refusal of a tag that the configuration refuses."""
    text = f"{reference} is refused by the tag rule {rule.match.text!r}; change mode in the configuration"
    return refused_by_policy(form, "tag-rule", text, rule=rule.match.text)


def refused_as_absent(form: RefusalForm, environment: Environment, reference: TagReference) -> Denied | None:
    """Why a tag that has no pin in the environment is not served; None: upstream is asked for it."""
    match environment.pins_from:
        case PinsFrom.FIRST_FETCH:
            return None
        case PinsFrom.PROMOTION:
            reason, missing = "not-promoted", f"is not promoted to the environment {environment.name}"
            ways = f"--from {environment.promote_from} --to {environment.name}"
            remedy = f"iarproxy promote {reference} {ways} --reason TEXT"
        case PinsFrom.LOCK:
            reason, missing = "not-in-lock", f"is not in the lock file of the environment {environment.name}"
            remedy = f"iarproxy lock import FILE --env {environment.name}"
        case _:
            assert_never(environment.pins_from)
    text = f"{reference} {missing}; `{remedy}` brings it in"
    return refused_by_policy(form, reason, text, environment=environment.name, remedy=remedy)


def refused_for_drift(pin: Pin, drift: DriftState | None, rule: TagRule) -> Denied | None:
    """Why a pinned tag is not served after upstream moved it; None: it is served."""
    if drift is None or drift.offered is None or drift.acknowledged is not None:
        return None
    offered = str(drift.offered.digest)
    match rule.on_drift:
        case OnDrift.KEEP:
            return None
        case OnDrift.DENY:
            return Denied(_moved(pin, offered), _DRIFT, **_facts(pin, offered))
        case OnDrift.STOP:
            return Stopped(_moved(pin, offered), _DRIFT, **_facts(pin, offered))
        case _:
            assert_never(rule.on_drift)


def acceptance(pin: Pin, offered: str) -> str:
    """The command that pins the tag to `offered` instead."""
    where = env_option(pin.environment)
    return f"iarproxy pins repin {pin.reference} --from {pin.descriptor.digest} --to {offered}{where} --reason TEXT"


def settlement(pin: Pin, offered: str) -> str:
    """The command that has the tag served as it is pinned although upstream offers `offered`."""
    return f"iarproxy drift ack {pin.reference} --digest {offered}{env_option(pin.environment)} --reason TEXT"


def _moved(pin: Pin, offered: str) -> str:
    return (
        f"{pin.name} drifted: pinned {pin.descriptor.digest}, upstream offers {offered};"
        f" `{acceptance(pin, offered)}` accepts it, `{settlement(pin, offered)}` serves what is pinned"
    )


def _facts(pin: Pin, offered: str) -> dict[str, str]:
    return {"pinned": str(pin.descriptor.digest), "offered": offered, "remedy": acceptance(pin, offered)}
