"""Wiring of webhooks: from their sections to what delivers, and what /metrics tells of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from iarproxy.cli.wiring import Rooms
from iarproxy.config import Config
from iarproxy.config.webhooks import WebhookSettings
from iarproxy.ledger.deliveries import Receiver
from iarproxy.metrics import Metrics
from iarproxy.mirror.events.cloud_events import insist_known
from iarproxy.mirror.events.deliveries import Deliverer, Subscription
from iarproxy.upstream.posting import Destination, Poster
from iarproxy.upstream.webhook import Webhook, read_secrets


def _utc_now() -> datetime:
    return datetime.now(UTC)


def check(config: Config) -> None:
    """Refuse webhooks that could never be told anything, before anything starts.

    Raises:
        ConfigError: names the section, the key and what to do.
    """
    insist_known({name: section.events for name, section in config.webhooks.items()})
    for name, section in config.webhooks.items():
        read_secrets(name, section.secret_file)


def webhook(name: str, section: WebhookSettings) -> Webhook:
    """The door to a receiver; to be made in the loop that uses it, and closed."""
    destination = Destination(
        name=f"webhooks.{name}",
        url=section.url,
        ca_file=section.ca_file,
        proxy=section.proxy,
        allow_private=section.allow_private,
    )
    poster = Poster(destination, timeout=section.timeout.total_seconds())
    return Webhook(name, poster, section.secret_file, _utc_now)


def subscription(name: str, section: WebhookSettings) -> Subscription:
    """What a receiver wants, and the door to it."""
    within = None if section.environments is None else frozenset(section.environments)
    return Subscription(webhook(name, section), frozenset(section.events), within, section.attempts)


def deliverer(rooms: Rooms, metrics: Metrics, elected: Callable[[], bool]) -> Deliverer:
    """What tells the webhooks of the configuration."""
    wanted = [subscription(name, section) for name, section in rooms.config.webhooks.items()]
    return Deliverer(rooms.ledger, rooms.store.identity, wanted, elected, count=metrics.told)


async def waiting(rooms: Rooms) -> list[tuple[Receiver, int]]:
    """Where each webhook stands that was ever told something, and how many events wait for it."""
    found = []
    for each in await rooms.ledger.deliveries.receivers():
        section = rooms.config.webhooks.get(each.name)
        if section is not None:
            kinds = None if "*" in section.events else frozenset(section.events)
            found.append((each, await rooms.ledger.deliveries.waiting(each.name, kinds)))
    return found


async def pin_readings(rooms: Rooms) -> dict[str, float]:
    """What /metrics tells of what waits for people, and of what they did; from the ledger, whoever did it."""
    acts = {f'acts{{kind="{kind}"}}': float(count) for kind, count in sorted((await rooms.ledger.acts()).items())}
    return {"withheld_tags": float(await rooms.ledger.waiting_count()), **acts}


async def readings(rooms: Rooms) -> dict[str, float]:
    """What /metrics tells of webhooks."""
    found = await waiting(rooms)
    dead = {f'events_dead{{webhook="{each.name}"}}': float(each.dead) for each, _ in found}
    waits = {f'events_waiting{{webhook="{each.name}"}}': float(count) for each, count in found}
    stopped = {f'events_stopped{{webhook="{each.name}"}}': float(bool(each.stopped)) for each, _ in found}
    return {**dead, **waits, **stopped}
