"""Wiring: the one place where rooms are opened and handed to each other.

Rule: what was opened is closed, in reverse order, however the command ends.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from iarproxy.cli.holdings import Holdings, open_holdings
from iarproxy.config import Config
from iarproxy.errors import Offline
from iarproxy.metrics import Metrics
from iarproxy.mirror.drift.checking import Checked
from iarproxy.mirror.drift.plan import Tally
from iarproxy.mirror.explain.missing import Missing
from iarproxy.mirror.mirror import Mirror
from iarproxy.oci.routing import Routes
from iarproxy.upstream import Upstreams
from iarproxy.upstream.via import pseudonym


@dataclass(frozen=True, slots=True)
class Rooms(Holdings):
    """Everything that a command works with."""

    upstreams: Upstreams
    mirror: Mirror

    def insist_on_upstreams(self) -> None:
        """Return if upstreams may be asked what they offer.

        Raises:
            Offline: the configuration says that none ever is.
        """
        if self.upstreams.is_offline:
            raise Offline(
                "this configuration is offline, so no upstream is asked what it offers; ask where they can be asked"
            )


def runtime_folder(identity: str, environment: Mapping[str, str]) -> Path | None:
    """Where what can be made anew lies, for the store of that identity: systemd's runtime directory, else the user's
    cache folder; None: the user has no home.
    """
    given = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    try:
        root = Path(given) if given else platformdirs.user_cache_path("iarproxy")
    except RuntimeError:  # no HOME, and no entry in the password file
        return None
    return root / identity


def routes_of(config: Config) -> Routes:
    """How requests find their upstream."""
    bindings = {address.lower(): upstream for address, upstream in config.server.bind.items()}
    listening = config.server.every_listen + config.server.optional_listen
    own = {address.lower() for address in listening if not address.startswith("unix:")}
    own |= {f"localhost:{address.rpartition(':')[2]}" for address in own}
    shown = {way: name for name, section in config.environments.items() for way in (*section.listen, *section.hosts)}
    prefixes = {section.path_prefix: name for name, section in config.environments.items() if section.path_prefix}
    return Routes(frozenset(config.upstreams), config.default_upstream, bindings, frozenset(own), shown, prefixes)


@asynccontextmanager
async def open_rooms(
    config: Config,
    environment: Mapping[str, str] = os.environ,
    metrics: Metrics | None = None,
    *,
    checked: bool = False,
) -> AsyncIterator[Rooms]:
    """Open store, ledger and upstreams, and the mirror over them.

    Args:
        config: what to open.
        environment: of the process; only systemd's RUNTIME_DIRECTORY is read.
        metrics: count what happens; None: nobody looks.
        checked: the structure of the ledger's file was checked just now, by whoever started this process.

    Raises:
        ConfigError: one of them cannot be used as it is; the message says what to do.
    """
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(open_holdings(config, checked=checked))
        store, ledger = held.store, held.ledger
        counted = metrics or Metrics.open(None)
        missing = Missing(store, ledger)
        stack.push_async_callback(missing.close)
        upstreams = await _upstreams(config, store.identity, environment, counted, missing)
        stack.push_async_callback(upstreams.close)
        stack.push_async_callback(store.close)  # before the upstreams: its ingests read from them
        mirror = Mirror(
            store=store,
            ledger=ledger,
            upstreams=upstreams,
            missing=missing,
            rules=config.rules,
            environments=[section.named(name) for name, section in config.environments.items()],
            platforms=config.pins.platforms,
            refusal=config.server.refusal,
            private=any(each.has_credentials for each in config.upstreams.values()),
            record_clients=config.server.record_clients,
            on_verdict=lambda checked: _count_verdict(counted, checked),
            on_tally=lambda upstream, tally: _note_tally(counted, upstream, tally),
            on_pin=lambda pin: counted.pins.labels(pin.reference.repository.registry).inc(),
        )
        stack.push_async_callback(mirror.close)
        yield Rooms(config, store, ledger, upstreams, mirror)


async def _upstreams(
    config: Config, identity: str, environment: Mapping[str, str], metrics: Metrics, missing: Missing
) -> Upstreams:
    if config.server.offline:
        return Upstreams.offline(config.upstreams, missing.lack)
    folder = runtime_folder(identity, environment)
    shared = None if folder is None else folder / "upstream"
    return await Upstreams.open(config.upstreams, cache_dir=shared, meter=metrics, via=pseudonym(identity))


def _count_verdict(metrics: Metrics, checked: Checked) -> None:
    upstream = checked.pin.reference.repository.registry
    verdict = "acknowledged" if checked.acknowledged else type(checked.verdict).__name__.lower()
    metrics.drifts.labels(upstream, verdict).inc()


def _note_tally(metrics: Metrics, upstream: str, tally: Tally) -> None:
    metrics.drift_overdue.labels(upstream).set(tally.overdue)
    metrics.drift_oldest.labels(upstream).set(round(max(0.0, tally.oldest)))
