"""Drift as people and programs are told of it: which pins, since when, what differs, and who settled it.

Rule: it is read from what the ledger keeps; upstream is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from iarproxy.errors import UnknownManifest
from iarproxy.ledger import DriftState, Event, Name, Pin
from iarproxy.mirror.spelling import drift_as_json, pin_as_json
from iarproxy.oci import TagReference

_CHUNK = 100  # alarms read at a time, so that a long list does not hold up a pull


class Accusations(Protocol):
    """What is read of accusations; `ledger.watching` has it."""

    async def accusations(self, names: Sequence[Name]) -> list[Event | None]:
        """The newest one about each name."""
        ...


class AlarmReads(Protocol):
    """What is read of the ledger."""

    @property
    def watching(self) -> Accusations:
        """The accusations."""
        ...

    async def drifts(self) -> list[tuple[Pin, DriftState]]:
        """The pins under drift."""
        ...


@dataclass(frozen=True, slots=True)
class Alarm:
    """A pin whose tag upstream moved or took away. `accusation`: with the evidence; None: the journal lost it."""

    pin: Pin
    drift: DriftState
    accusation: Event | None = None

    @property
    def evidence(self) -> dict[str, Any]:
        """What was kept when upstream was accused."""
        found = None if self.accusation is None else self.accusation.body.get("evidence")
        return found if isinstance(found, dict) else {}

    @property
    def summary(self) -> str:
        """The difference in one line; empty where it is not known."""
        return str(self.evidence.get("summary", ""))


async def drifting(ledger: AlarmReads, environment: str | None = None) -> list[Alarm]:
    """The pins under drift, of one environment or (None) of all, by name; without accusations."""
    found = [Alarm(pin, drift) for pin, drift in await ledger.drifts()]
    return sorted(
        (each for each in found if environment in (None, each.pin.environment)), key=lambda each: each.pin.name
    )


async def with_evidence(ledger: AlarmReads, alarms: Sequence[Alarm]) -> list[Alarm]:
    """The same with their accusations."""
    events = list[Event | None]()
    for start in range(0, len(alarms), _CHUNK):
        names = [each.pin.name for each in alarms[start : start + _CHUNK]]
        events += await ledger.watching.accusations(names)
    return [Alarm(each.pin, each.drift, event) for each, event in zip(alarms, events, strict=True)]


async def of(ledger: AlarmReads, environment: str, reference: TagReference) -> Alarm:
    """The alarm about one tag.

    Raises:
        UnknownManifest: there is none.
    """
    found = [each for each in await drifting(ledger, environment) if each.pin.reference == reference]
    if not found:
        raise UnknownManifest(
            f"no drift of {Name(environment, reference)} is known; `iarproxy drift check` asks upstream"
        )
    return (await with_evidence(ledger, found))[0]


def alarm_as_json(alarm: Alarm) -> dict[str, Any]:
    """An alarm in a list."""
    drift = drift_as_json(alarm.drift)
    return {**pin_as_json(alarm.pin), "environment": alarm.pin.environment, "drift": drift, "summary": alarm.summary}


def alarm_in_full(alarm: Alarm) -> dict[str, Any]:
    """An alarm with its evidence."""
    serial = None if alarm.accusation is None else alarm.accusation.serial
    return {**alarm_as_json(alarm), "serial": serial, "evidence": alarm.evidence}
