"""The master: gunicorn's arbiter, which holds the listening sockets and keeps the workers alive.

Rule 1: the master serves nothing, opens nothing but sockets and holds nothing but the certificate that it was started
        with; everything else is made by workers after the fork.
Rule 2: a reload starts the new workers first; the old ones leave when all new ones serve. If one of those does not,
        they are the ones that go, and the old configuration stays.
Rule 3: stopping closes the listening sockets first, then lets the workers finish; a second Ctrl-C is immediate.
Rule 4: the service manager hears READY when all workers serve, and WATCHDOG while one of them gives signs of life.
Rule 5: every process that this master started is told to leave again and again until it did: a signal that arrives
        right after the fork is lost otherwise.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from iarproxy import metrics
from iarproxy.errors import ConfigError, IarproxyError
from iarproxy.server.faces import Build, ServeSettings
from iarproxy.server.listeners import Listener, Role, is_replaced
from iarproxy.server.notify import Notifier
from iarproxy.server.quiet import Quiet
from iarproxy.server.worker import Worker

_log = structlog.get_logger("iarproxy.server")

_TICK = 0.1  # seconds between two looks while workers come or go
_RESPAWN_DELAY = 1.0  # seconds until a worker that could not start is tried again
_KILL_MARGIN = 8.0  # seconds beyond the graceful timeout in which a worker closes what it opened


class Application(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """What gunicorn is told, and what the workers need.

    Attributes:
        slot, generation: of the worker that is made next.
    """

    def __init__(
        self,
        settings: ServeSettings,
        build: Build,
        reload: Callable[[], ServeSettings],
        listeners: list[Listener],
        notifier: Notifier,
    ) -> None:
        self.settings, self.build, self.read_again = settings, build, reload
        self.listeners, self.notifier = listeners, notifier
        self.slot = self.generation = 0
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn; nothing is read from files, arguments or the environment."""
        self.cfg.set("proc_name", "iarproxy")
        self.cfg.set("worker_class", Worker)
        self.cfg.set("logger_class", Quiet)
        self.cfg.set("workers", self.settings.workers or os.cpu_count() or 1)
        self.cfg.set("timeout", max(1, round(self.settings.worker_timeout)))
        self.cfg.set("control_socket_disable", True)  # noqa: FBT003  # gunicorn's signature

    def load(self) -> None:
        """Nothing: there is no WSGI application."""


class Master(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """The arbiter with our ways to start, reload and stop."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self._notifier = app.notifier
        self._served = False  # a worker has served since the start
        self._announced = False
        self._not_before = 0.0  # when a worker may be started again
        self._stopping = False

    # --- start and watch ---

    def start(self) -> None:
        """Called by `run`. The sockets are open already."""
        self.pid = os.getpid()
        self.init_signals()
        gc.freeze()  # what exists now is shared with the workers, untouched by their garbage collectors
        addresses = [f"{each.role}={each.address}" for each in self.app.listeners]
        _log.info("listening", addresses=addresses, workers=self.num_workers, pid=self.pid)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """The signals that came; returns early while workers come or go."""
        settled = self._announced and not self._leaving()
        limit = timeout if self._notifier.watchdog is None else min(timeout, self._notifier.watchdog / 3)
        signals: list[int] = super().wait_for_signals(timeout=limit if settled else _TICK)
        return signals

    def murder_workers(self) -> None:
        """Called on each turn: replace what hangs, push what should leave, tell the service manager."""
        super().murder_workers()
        self._push_leaving()
        self._tell()

    def manage_workers(self) -> None:
        """Start what is missing. At first one worker alone, so that what fails fails once."""
        if self._stopping or time.monotonic() < self._not_before:
            return
        staying = [worker for worker in self.WORKERS.values() if worker.leave_until is None]
        wanted = self.num_workers if self._served else 1
        for worker in sorted(staying, key=lambda each: each.age)[wanted:]:
            self._ask_to_leave(worker)
        taken = {worker.slot for worker in staying}
        for slot in range(self.num_workers):
            if len(taken) < wanted and slot not in taken:
                taken.add(slot)
                self._spawn(slot)

    def _spawn(self, slot: int) -> int:
        self.app.slot = slot
        return int(self.spawn_worker())

    def _tell(self) -> None:
        workers = self.WORKERS.values()
        serving = [worker for worker in workers if worker.ready and worker.leave_until is None]
        self._served = self._served or bool(serving)
        if any(time.monotonic() - worker.tmp.last_update() < self.timeout for worker in workers if worker.ready):
            self._notifier.alive()
        if not self._announced and len(serving) >= self.num_workers:
            self._announced = True
            self._notifier.ready()
            _log.info("serving", workers=len(serving))

    def reap_workers(self) -> None:
        """Called when a child ended.

        Raises:
            HaltServer: the first worker could not start.
        """
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                worker = self.WORKERS.pop(ended[0], None)
                if worker is not None:
                    self._mourn(ended[0], ended[1], worker)

    def _mourn(self, pid: int, status: int, worker: Worker) -> None:
        was_ready, wanted = worker.ready, worker.leave_until is not None
        worker.tmp.close()
        if self.app.settings.metrics_dir is not None:
            metrics.forget(self.app.settings.metrics_dir, pid)
        self._served = self._served or was_ready
        if wanted or self._stopping:
            return
        _log.error("a worker ended", pid=pid, status=os.waitstatus_to_exitcode(status))
        if not was_ready:
            self._not_before = time.monotonic() + _RESPAWN_DELAY
            if not self._served:
                raise HaltServer("the first worker could not start", 1)

    # --- leaving ---

    def _leaving(self) -> list[Worker]:
        return [worker for worker in self.WORKERS.values() if worker.leave_until is not None]

    def _ask_to_leave(self, worker: Worker) -> None:
        worker.leave_until = time.monotonic() + self.app.settings.graceful_timeout + _KILL_MARGIN
        self._push(worker)

    def _push_leaving(self) -> None:
        for worker in self._leaving():
            self._push(worker)

    def _push(self, worker: Worker) -> None:
        late = worker.leave_until is not None and time.monotonic() > worker.leave_until
        with suppress(ProcessLookupError):
            os.kill(int(worker.pid), signal.SIGKILL if late else signal.SIGTERM)

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002  # gunicorn's signature
        """End all workers; returns when none is left. A second SIGINT or a SIGQUIT kills them at once."""
        self._stopping = True
        self._notifier.stopping()
        for listener in self.app.listeners:
            listener.close()
        for worker in self.WORKERS.values():
            self._ask_to_leave(worker)
        while self.WORKERS:
            if not graceful or {signal.SIGINT, signal.SIGQUIT} & set(self._signals_now()):
                for worker in self.WORKERS.values():
                    worker.leave_until = 0.0
            self._push_leaving()
            self._notifier.alive()
            self.reap_workers()
            time.sleep(_TICK / 2)

    def _signals_now(self) -> list[int]:
        found = []
        while not self.SIG_QUEUE.empty():
            found.append(self.SIG_QUEUE.get_nowait())
        return found

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """Called by `run` at the end.

        Raises:
            SystemExit: with the status.
        """
        self.stop()
        _log.info("stopped", reason=reason)
        raise SystemExit(exit_status)

    def handle_int(self) -> None:
        """Ctrl-C: as SIGTERM; `stop` looks out for the second one."""
        raise StopIteration

    # --- reload ---

    def handle_hup(self) -> None:
        """Read the configuration again and replace the workers; keep all as it was if either fails."""
        self._notifier.reloading()
        before = self.app.settings
        try:
            self.app.settings = self._read_again()
            self._replace_workers()
            _log.info("reloaded")
        except Exception as error:  # noqa: BLE001  # whatever a new configuration does, the old one goes on
            foreseen = isinstance(error, IarproxyError)
            _log.error("not reloaded; the old configuration stays", reason=str(error), exc_info=not foreseen)
            self.app.settings = before
        self.num_workers = self.app.settings.workers or os.cpu_count() or 1
        self.timeout = self.app.settings.worker_timeout
        self._notifier.ready()

    def _read_again(self) -> ServeSettings:
        settings: ServeSettings = self.app.read_again()
        self._keep_environments(settings)
        inherited = [listener for listener in self.app.listeners if listener.inherited]
        open_now = {(listener.role, listener.address) for listener in self.app.listeners if not listener.inherited}
        asked = {each for each in settings.addresses if not is_replaced(*each, inherited)}
        if {address for _, address in open_now ^ asked} - set(settings.optional):
            _log.warning("changed addresses need a restart; the old ones are served on")
        if settings.tls is None:  # its addresses are served on too
            return replace(settings, tls=self.app.settings.tls)
        return settings

    def _keep_environments(self, settings: ServeSettings) -> None:
        """Refuse a configuration under which an open address would show the default pins in place of an environment's.

        Raises:
            ConfigError: it names the address.
        """
        meant = {*settings.listen, *settings.environment_listen}
        for listener in self.app.listeners:
            if listener.role is Role.ENVIRONMENT and listener.address not in meant:
                raise ConfigError(
                    f"{listener.address} shows an environment until a restart, and is no address of one any more;"
                    " restart, or write it back"
                )

    def _replace_workers(self) -> None:
        old = list(self.WORKERS.values())
        self.app.generation += 1
        count = self.app.settings.workers or os.cpu_count() or 1
        pids = [self._spawn(slot) for slot in range(count)]
        new = [self.WORKERS[pid] for pid in pids]
        try:
            self._await_ready(pids)
        except ConfigError:
            for worker in new:
                self._ask_to_leave(worker)
            raise
        for worker in old:
            self._ask_to_leave(worker)

    def _await_ready(self, pids: list[int]) -> None:
        deadline = time.monotonic() + self.app.settings.boot_timeout
        while not all(pid in self.WORKERS and self.WORKERS[pid].ready for pid in pids):
            self.reap_workers()
            if not self.WORKERS.keys() >= set(pids):
                raise ConfigError("a new worker could not start; its own message tells why")
            if time.monotonic() > deadline:
                raise ConfigError("the new workers did not serve in time")
            self._notifier.alive()
            time.sleep(_TICK / 2)

    # --- signals of gunicorn that mean nothing here ---

    def handle_usr1(self) -> None:
        """Nothing: there are no log files to open again."""

    def handle_usr2(self) -> None:
        """Nothing: an upgrade is a restart, with the sockets held by systemd."""

    def handle_winch(self) -> None:
        """Nothing."""
