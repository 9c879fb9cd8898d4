"""`iarproxy serve`: everything that a worker is made of, and the checks that come before the first one.

Rule 1: what would keep a worker from starting is found before any is started, and said in one line.
Rule 2: workers open their own rooms, after the fork, inside their loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer

from iarproxy.cli import telling
from iarproxy.cli.holdings import become_owner, checkpointing
from iarproxy.cli.logs import access_sink, configure_logging
from iarproxy.cli.options import ConfigOption, load
from iarproxy.cli.wiring import Rooms, open_rooms, routes_of, runtime_folder
from iarproxy.config import Config
from iarproxy.config.listening import ClientCertificates
from iarproxy.errors import ConfigError
from iarproxy.metrics import Metrics
from iarproxy.mirror.chores import Chores
from iarproxy.oci import DOCKER_HUB
from iarproxy.server.admin import AdminFace
from iarproxy.server.faces import Faces, ServeSettings, WorkerContext
from iarproxy.server.registry import RegistryFace
from iarproxy.server.sending import Pace
from iarproxy.server.supervisor import serve as supervise
from iarproxy.server.tls import Identity, TlsFiles, read_identity
from iarproxy.store import ServingLock, Store
from iarproxy.upstream.via import pseudonym

log = structlog.get_logger("iarproxy.serve")

_CHECKED = 10.0  # seconds that the check before the first worker is good for; who is started later checks again


def serve(
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no upstream, as with offline = true in [server].")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Serve the mirror.

    With no configuration: 127.0.0.1:5000, the usual upstreams, the store in your data folder.
    """
    configure_logging(logging.INFO)
    settings = _settings(config, offline=offline)
    become_owner(settings.store.path)
    lock, metrics = asyncio.run(_check(settings))
    log.info("configuration", file=str(settings.source or "built-in defaults"), store=str(settings.store.path))
    if settings.server.offline:
        log.info("offline", reason="no upstream is asked; what is not held is answered with 404")
    building = partial(build, checked_until=time.monotonic() + _CHECKED)
    with closing(lock):
        code = supervise(
            serve_settings(settings, metrics),
            building,
            lambda: _again(_settings(config, offline=offline), metrics, settings),
        )
    raise SystemExit(code)


def _settings(chosen: Path | None, *, offline: bool) -> Config:
    """The configuration; an option goes before it."""
    config = load(chosen)
    server = config.server.model_copy(update={"offline": offline or config.server.offline})
    return config.model_copy(update={"server": server})


async def _check(config: Config) -> tuple[ServingLock, Path | None]:
    """Open everything once and close it again, but for the lock that refuses a second `serve` on the store.

    With it comes the folder where workers add up their counters.
    """
    store = Store.open(config.store.path, max_size=config.store.max_size)
    try:
        lock = store.lock_for_serving()
    finally:
        await store.close()
    try:
        async with open_rooms(config):
            return lock, _metrics_folder(runtime_folder(store.identity, os.environ))
    except BaseException:
        lock.close()
        raise


def _metrics_folder(runtime: Path | None) -> Path | None:
    if runtime is None:
        log.warning("each worker counts for itself", reason="this user has no home folder")
        return None
    folder = runtime / "metrics"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("each worker counts for itself", folder=str(folder), reason=error.strerror)
        return None
    return folder


def tls_identity(config: Config) -> Identity | None:
    """What the server shows in TLS handshakes; None: it speaks no TLS.

    Raises:
        ConfigError: its files cannot be used.
    """
    tls = config.server.tls
    if tls is None:
        return None
    required = tls.client_certificates is ClientCertificates.REQUIRED
    try:
        return read_identity(TlsFiles(tls.cert_file, tls.key_file, tls.client_ca_file, required))
    except ConfigError as error:
        raise ConfigError(f"{config.source or 'built-in defaults'}: {error}") from error


def serve_settings(config: Config, metrics: Path | None) -> ServeSettings:
    """What the supervisor has to know of the configuration.

    Raises:
        ConfigError: the files of `[server.tls]`, or those of a webhook, cannot be used.
    """
    telling.check(config)
    return ServeSettings(
        listen=config.server.listen + config.server.optional_listen,
        optional=config.server.optional_listen,
        tls_listen=() if config.server.tls is None else config.server.tls.listen,
        tls=tls_identity(config),
        environment_listen=tuple(each for one in config.environments.values() for each in one.listen),
        admin=config.admin.listen,
        probes=config.admin.probes,
        workers=config.server.workers,
        graceful_timeout=config.server.graceful_timeout.total_seconds(),
        metrics_dir=metrics,
        config=config,
    )


def _again(config: Config, metrics: Path | None, before: Config) -> ServeSettings:
    """The configuration on SIGHUP; the store cannot change under a running `serve`."""
    if (config.store.path, config.ledger_path) != (before.store.path, before.ledger_path):
        log.warning("store.path and ledger.url need a restart; the old ones are used on")
        config = config.model_copy(update={"store": before.store, "ledger": before.ledger})
    return serve_settings(config, metrics)


async def build(context: WorkerContext, *, checked_until: float = 0.0) -> Faces:
    """The faces of one worker. `checked_until` (monotonic): so long it need not check the ledger's structure again."""
    config: Config = context.settings.config
    checked = time.monotonic() < checked_until
    async with AsyncExitStack() as stack:
        metrics = Metrics.open(context.settings.metrics_dir)
        rooms = await stack.enter_async_context(open_rooms(config, os.environ, metrics, checked=checked))
        elected = rooms.store.election("chores")
        stack.callback(elected.close)
        chores = Chores(rooms.store, rooms.ledger, rooms.mirror.watch, elected)
        stack.push_async_callback(chores.close)
        told = telling.deliverer(rooms, metrics, elected)
        stack.push_async_callback(told.close)
        signing = checkpointing(rooms)
        signing.on_checkpoint(lambda made: told.checkpoint(str(made.note), {"size": made.size}))
        chores.add(signing.make_checkpoint, config.journal.checkpoint_interval)
        registry = RegistryFace(
            rooms.mirror,
            routes_of(config),
            pace=Pace(window=config.server.stall_timeout.total_seconds()),
            log=access_sink() if config.server.access_log else None,
            count=metrics,
            uses=rooms.mirror,
            memory=rooms.mirror,
            via=pseudonym(rooms.store.identity),
        )
        gauges = dict if context.tls is None else context.tls.gauges
        admin = AdminFace(
            rooms,
            metrics,
            leaving=context.leaving,
            gauges=gauges,
            environments=config.environments,
            offline=rooms.upstreams.is_offline,
            registry=config.default_upstream or DOCKER_HUB,
            standings=rooms.upstreams.standings,
            explain=rooms.mirror.explain.reference,
            readings=(partial(telling.readings, rooms), partial(telling.pin_readings, rooms), signing.readings),
        )
        chores.start(timedelta(0) if rooms.upstreams.is_offline else config.drift.interval, config.drift.rate)
        told.start()
        return Faces(
            registry=registry.on,
            admin=admin.application(),
            probes=admin.probes(),
            beat=lambda: _beat(rooms),
            close=stack.pop_all().aclose,
            handshake=metrics.shook_hands,
        )


async def _beat(rooms: Rooms) -> None:
    """One store read, in a thread: a disk that hangs takes this worker's heartbeat with it."""
    await asyncio.to_thread((rooms.store.root / "oci-layout").read_bytes)
