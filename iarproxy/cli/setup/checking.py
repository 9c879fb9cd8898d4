"""The check: what a client's files say, and what the client really does with the two tags of the probe.

Rule 1: an arrival is proven by a digest that only this mirror can have made; nothing less counts.
Rule 2: a refusal is bypassed when the client got the image, when its error names the real registry, or when its files
        let it go on and the refusal is an error: some clients show the mirror's error and ask upstream all the same.
Rule 3: what could not be asked is said, and never counts as proven.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from iarproxy.cli.setup.plan import EVERY, Finding, Weight
from iarproxy.cli.setup.probing import REFUSED, REPOSITORY, Promised
from iarproxy.cli.setup.pulling import Failed, Pulled, Puller
from iarproxy.oci import DOCKER_HUB

_HUB_HOSTS = ("registry-1.docker.io", "auth.docker.io", "index.docker.io")


class Arrival(StrEnum):
    """What became of the pull that has to work."""

    PROVEN = "arrives here"
    ELSEWHERE = "went elsewhere"
    FAILED = "failed"


class Held(StrEnum):
    """What became of the pull that is refused."""

    HELD = "held"
    BYPASSED = "bypassed"


@dataclass(frozen=True, slots=True)
class Proof:
    """What one program did with one registry. `held` None: not asked, since the first pull did not arrive."""

    program: str
    registry: str
    arrival: Arrival
    held: Held | None
    said: str


class Verdict(StrEnum):
    """The whole check in one word."""

    PROVEN = "proven"
    BYPASSED = "bypassed"
    WRONG = "wrong"
    UNPROVEN = "not proven"


def prove(puller: Puller, registry: str, nonce: str, promised: Promised, findings: Iterable[Finding]) -> Proof:
    """Run the program on the probe of one registry."""
    passing, denied = (f"{registry}/{REPOSITORY}:{kind}-{nonce}" for kind in ("pass", "deny"))
    match puller.get(passing):
        case Pulled(digests=digests) if digests & promised.digests:
            held, said = _refusal(puller.get(denied), denied, registry, promised, findings)
            return Proof(puller.name, registry, Arrival.PROVEN, held, said)
        case Pulled(digests=digests):
            said = f"it has {', '.join(sorted(digests)) or 'no digest'}, which this mirror did not make"
            return Proof(puller.name, registry, Arrival.ELSEWHERE, None, said)
        case Failed() as failed:
            elsewhere = _names_upstream(failed.said, passing, registry)
            arrival = Arrival.ELSEWHERE if elsewhere else Arrival.FAILED
            return Proof(puller.name, registry, arrival, None, failed.why)
        case other:
            assert_never(other)


def _refusal(
    got: Pulled | Failed, reference: str, registry: str, promised: Promised, findings: Iterable[Finding]
) -> tuple[Held, str]:
    """Whether a refusal held, and what the program said."""
    if isinstance(got, Pulled):
        return Held.BYPASSED, "it pulled what this mirror refuses"
    if REFUSED in got.said:  # where this mirror refuses by an error, another iarproxy was asked next
        return Held.HELD if promised.stops else Held.BYPASSED, got.why
    if _names_upstream(got.said, reference, registry):
        return Held.BYPASSED, got.why
    let = [each for each in findings if each.weight is Weight.OPEN and each.registry in (None, EVERY, registry)]
    if let and not promised.stops:
        return Held.BYPASSED, f"{let[0].where}: {let[0].text}"
    return Held.HELD, got.why


def _names_upstream(said: str, reference: str, registry: str) -> bool:
    """Whether an error shows that the real registry was asked; that the reference names it does not count."""
    text = said.replace(f"docker://{reference}", "").replace(f"//{reference}", "").replace(reference, "")
    hosts = _HUB_HOSTS if registry == DOCKER_HUB else (registry,)
    return any(re.search(rf"(?:https?://|host |registry |lookup ){re.escape(host)}(?![\w.-])", text) for host in hosts)


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found. `absent`: what could not be tried, and why."""

    findings: tuple[Finding, ...]
    proofs: tuple[Proof, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """All of it in one word."""
        arrivals = {each.arrival for each in self.proofs}
        if any(each.weight is Weight.WRONG for each in self.findings) or arrivals - {Arrival.PROVEN}:
            return Verdict.WRONG
        if any(each.held is Held.BYPASSED for each in self.proofs):
            return Verdict.BYPASSED
        return Verdict.PROVEN if self.proofs else Verdict.UNPROVEN


def check(
    findings: Iterable[Finding], pullers: Iterable[Puller], promised: Mapping[str, Promised], nonce: str
) -> Report:
    """Run each program on the probe of each registry.

    Args:
        findings: what the client's files say.
        pullers: the programs; one that is not there is told, and proves nothing.
        promised: what the mirror answers, by registry.
        nonce: what the probe's tags end with.
    """
    proofs: list[Proof] = []
    absent: list[str] = []
    told = tuple(findings)
    for puller in pullers:
        missing = puller.absent()
        if missing is None:
            proofs += [prove(puller, each, nonce, promise, told) for each, promise in promised.items()]
        else:
            absent.append(missing.why)
    return Report(told, tuple(proofs), tuple(absent))
