"""What keeps a tag from being served, in the very refusals that clients get, and the commands that would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from iarproxy.errors import Refused, UnknownName
from iarproxy.ledger import DriftState, Pin, Unpinned, Withheld
from iarproxy.mirror.serving.refusing import (
    acceptance,
    refused_as_absent,
    refused_by_rule,
    refused_for_drift,
    settlement,
)
from iarproxy.mirror.serving.withholding import refused_as_withheld
from iarproxy.oci import Digest, Reference, TagReference
from iarproxy.trust import Mode, RefusalForm, TagRule
from iarproxy.trust.environments import Environment, PinsFrom, env_option
from iarproxy.trust.policy import Admission


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a reference in an environment.

    Attributes:
        upstream: the URL that is asked; None: the registry is not in the closed list.
        rule: None for a digest.
        withheld: what would be withheld now, were upstream to offer what it offered last.
        expected: what a seed says.
        past: how it is that a tag has no pin any more; None: it has one, or never had.
    """

    environment: Environment
    reference: Reference
    upstream: str | None
    rule: TagRule | None = None
    pin: Pin | None = None
    past: Unpinned | None = None
    drift: DriftState | None = None
    withheld: Withheld | None = None
    expected: Digest | None = None


def blocks(standing: Standing, recalled: Refused | None) -> tuple[Refused, ...]:
    """Every refusal that stands between a client and the content, the first that it would meet first.

    `recalled`: what is refused of the digest itself.
    """
    if standing.upstream is None:
        name = standing.reference.repository.registry
        return (UnknownName(f'{name} is not one of the configured upstreams; add [upstreams."{name}"]'),)
    found = [*_of_tag(standing), recalled]
    return tuple(each for each in found if each is not None)


def _of_tag(standing: Standing) -> Sequence[Refused | None]:
    reference, rule, form = standing.reference, standing.rule, RefusalForm.ERROR
    if rule is None or not isinstance(reference, TagReference):
        return ()
    if rule.mode is Mode.REFUSE:
        return (refused_by_rule(form, rule, reference),)
    if rule.mode is Mode.FOLLOW:
        return ()
    if standing.pin is not None:
        return (refused_for_drift(standing.pin, standing.drift, rule),)
    if standing.withheld is not None:
        return (refused_as_withheld(form, standing.withheld),)
    return (refused_as_absent(form, standing.environment, reference),)


def remedies(standing: Standing, blocked: Sequence[Refused]) -> tuple[str, ...]:
    """The commands that would change what is served, those that lift a refusal first."""
    told = [str(each.detail["remedy"]) for each in blocked if "remedy" in each.detail]
    return tuple(dict.fromkeys([*told, *_changes(standing)]))


def _changes(standing: Standing) -> Sequence[str]:
    pin, reference, where = standing.pin, standing.reference, env_option(standing.environment.name)
    if not isinstance(reference, TagReference) or (standing.rule and standing.rule.mode is not Mode.PIN):
        return ()
    if pin is None:
        approve = f"iarproxy pins approve {reference} --digest DIGEST --reason TEXT{where}"
        return [approve] if _needs_approval(standing) else ()
    pinned, drift = pin.descriptor.digest, standing.drift
    match standing.environment.pins_from:
        case PinsFrom.PROMOTION:
            names = f"--from {standing.environment.promote_from} --to {standing.environment.name}"
            return [f"iarproxy promote {reference} {names} --replace {pinned} --reason TEXT"]
        case PinsFrom.LOCK:
            return [f"iarproxy lock import FILE --repin --reason TEXT{where}"]
        case PinsFrom.FIRST_FETCH:
            offered = drift.offered.digest if drift and drift.offered else None
            repin = acceptance(pin, str(offered or "DIGEST"))
            return [repin, settlement(pin, str(offered))] if offered and drift and drift.alarms else [repin]
        case _:
            assert_never(standing.environment.pins_from)


def _needs_approval(standing: Standing) -> bool:
    """Whether only a person's approval lets a tag without a pin in, and what is offered is not known yet."""
    if standing.withheld is not None or not standing.environment.pins_first_fetches:
        return False
    if standing.past is not None:
        return not standing.past.retired
    admit = Admission.ANY if standing.rule is None else standing.rule.admit
    return admit is Admission.APPROVED or (admit is Admission.SEEDED and standing.expected is None)
