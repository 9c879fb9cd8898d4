"""Counters of all workers, in the text format of Prometheus.

Rule 1: nothing is set up at import and no environment is read: `Metrics.open` is told the folder that workers share.
Rule 2: labels have few values: kinds, outcomes, status classes and the names of configured upstreams; never a
        repository, tag, digest or client (threats T78, T80).
Rule 3: metrics never fail what they measure: the library writes through memory maps, and a page for which the disk has
        no room is a SIGBUS. So the room is taken when a worker starts, or its counters stay its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300)
_MAPPED = 256 * 1024  # bytes: more than all labels that there can be take, with some dozen upstreams
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the library's own channel; set here, never read by us


@dataclass(frozen=True, slots=True)
class Metrics:
    """The counters of one process, and the sum over all that share the folder.

    Attributes:
        pins: first pins, by `upstream`.
        drifts: verdicts on pinned tags, by `upstream` and `verdict`.
        drift_overdue: pins that were not checked within the interval, by `upstream`; `drift_oldest`: seconds since the
            oldest check. The process that watches drift sets them.
        upstream: requests to upstreams, by `upstream` and `outcome` (2xx, 3xx, 4xx, 5xx, timeout, unreachable).
        fetched: bytes received from upstreams, by `upstream`.
        upstream_spent: requests to upstreams, by `upstream` and `kind` (manifest, head, blob, tags, referrers, token).
        upstream_refused: requests that were not sent, by `upstream` and `reason` (held, down, floor, full).
        upstream_remembered: questions answered by a "no" of a moment ago, by `upstream`.
        handshakes: of TLS, by `outcome` (done, late, plain, failed, left).
        denials: answers of "no", by `reason` (recalled, policy, and the words that stop clients, such as tag-drift).
        events_delivered: events that a `webhook` took.
        events_failed: tries that failed, by `webhook`.
    """

    registry: CollectorRegistry
    folder: Path | None
    requests: Counter
    sent: Counter
    seconds: Histogram
    pins: Counter
    drifts: Counter
    drift_overdue: Gauge
    drift_oldest: Gauge
    upstream: Counter
    fetched: Counter
    upstream_spent: Counter
    upstream_refused: Counter
    upstream_remembered: Counter
    handshakes: Counter
    denials: Counter
    events_delivered: Counter
    events_failed: Counter

    @classmethod
    def open(cls, folder: Path | None) -> Metrics:
        """This process's counters; call it after the fork.

        `folder`: shared by all workers; None, or a disk without room: this process counts for itself.
        """
        if folder is not None and not _has_room(folder):
            folder = None
        if folder is not None:
            os.environ[_FOLDER] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]  # as the library ships it
        own = CollectorRegistry()
        return cls(
            registry=own,
            folder=folder,
            requests=Counter(
                "iarproxy_requests", "Answers.", ["kind", "upstream", "status", "outcome", "cache"], registry=own
            ),
            sent=Counter("iarproxy_sent_bytes", "Bytes of bodies sent.", ["kind"], registry=own),
            seconds=Histogram(
                "iarproxy_request_seconds",
                "From head to last byte, without the answers of the fast lane.",
                ["kind"],
                buckets=_SECONDS,
                registry=own,
            ),
            pins=Counter("iarproxy_pins", "First pins.", ["upstream"], registry=own),
            drifts=Counter("iarproxy_drift_checks", "Verdicts on pinned tags.", ["upstream", "verdict"], registry=own),
            drift_overdue=_gauge("iarproxy_drift_overdue", "Pins not checked within the interval.", own),
            drift_oldest=_gauge("iarproxy_drift_oldest_check_seconds", "Age of the oldest check.", own),
            upstream=Counter(
                "iarproxy_upstream_requests", "Requests to upstreams.", ["upstream", "outcome"], registry=own
            ),
            fetched=Counter("iarproxy_fetched_bytes", "Bytes from upstreams.", ["upstream"], registry=own),
            upstream_spent=Counter(
                "iarproxy_upstream_spent", "Requests to upstreams by kind.", ["upstream", "kind"], registry=own
            ),
            upstream_refused=Counter(
                "iarproxy_upstream_refused",
                "Requests that upstream was spared.",
                ["upstream", "reason"],
                registry=own,
            ),
            upstream_remembered=Counter(
                "iarproxy_upstream_remembered", "Answers from the negative cache.", ["upstream"], registry=own
            ),
            handshakes=Counter("iarproxy_tls_handshakes", "TLS handshakes.", ["outcome"], registry=own),
            denials=Counter("iarproxy_denied", "Answers of no.", ["reason"], registry=own),
            events_delivered=Counter("iarproxy_events_delivered", "Events taken.", ["webhook"], registry=own),
            events_failed=Counter("iarproxy_events_failed", "Failed tries of events.", ["webhook"], registry=own),
        )

    def answered(
        self, *, kind: str, upstream: str, status: int, outcome: str, cache: str, sent: int, seconds: float
    ) -> None:
        """One answer ended; see `server.ports.Count`."""
        self.requests.labels(kind, upstream, f"{status // 100}xx", outcome, cache).inc()
        self.sent.labels(kind).inc(sent)
        self.seconds.labels(kind).observe(seconds)

    def answered_many(self, *, kind: str, upstream: str, cache: str, count: int, sent: int) -> None:
        """Answers of the fast lane ended; see `server.ports.Count`. A histogram takes one at a time: not timed."""
        self.requests.labels(kind, upstream, "2xx", "sent", cache).inc(count)
        self.sent.labels(kind).inc(sent)

    def denied(self, reason: str) -> None:
        """Somebody was denied something; see `server.ports.Count`."""
        self.denials.labels(reason).inc()

    def took(self, kind: str, seconds: float) -> None:
        """One of many answers took that long; see `server.ports.Count`."""
        self.seconds.labels(kind).observe(seconds)

    def asked(self, upstream: str, outcome: str) -> None:
        """An upstream was asked; see `upstream.client.Meter`."""
        self.upstream.labels(upstream, outcome).inc()

    def shook_hands(self, outcome: str) -> None:
        """A TLS handshake ended."""
        self.handshakes.labels(outcome).inc()

    def told(self, webhook: str, ok: bool) -> None:  # noqa: FBT001  # a callback of two values
        """A webhook was sent an event; see `mirror.deliveries.Deliverer`."""
        (self.events_delivered if ok else self.events_failed).labels(webhook).inc()

    def received(self, upstream: str, count: int) -> None:
        """An upstream sent so many bytes."""
        self.fetched.labels(upstream).inc(count)

    def spent(self, upstream: str, kind: str) -> None:
        """An upstream was sent a request of that kind."""
        self.upstream_spent.labels(upstream, kind).inc()

    def turned_away(self, upstream: str, reason: str) -> None:
        """An upstream was not sent a request."""
        self.upstream_refused.labels(upstream, reason).inc()

    def remembered(self, upstream: str) -> None:
        """An upstream's "no" was remembered."""
        self.upstream_remembered.labels(upstream).inc()

    def render(self, now: Mapping[str, float]) -> bytes:
        """All workers' counters as text, and what holds `now`, by the rest of its name, with its labels if it has any.

        Those of one name follow each other.
        """
        everyone = self.registry
        if self.folder is not None:
            everyone = CollectorRegistry()
            MultiProcessCollector(everyone, path=str(self.folder))  # type: ignore[no-untyped-call]  # as above
        gauges, told = [], ""
        for name, value in now.items():
            if told != (told := name.partition("{")[0]):
                gauges.append(f"# TYPE iarproxy_{told} gauge\n")
            gauges.append(f"iarproxy_{name} {value}\n")
        return bytes(generate_latest(everyone)) + "".join(gauges).encode("ascii")


def _gauge(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    """One that only one process sets; what a process that has ended set counts no more."""
    return Gauge(name, text, ["upstream"], registry=registry, multiprocess_mode="livemax")


def _has_room(folder: Path) -> bool:
    """Whether the files that the library will map have all their bytes on the disk."""
    if not hasattr(os, "posix_fallocate"):
        return True
    try:
        for kind in ("counter", "histogram", "gauge_livemax"):
            fd = os.open(folder / f"{kind}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _MAPPED)
            finally:
                os.close(fd)
    except OSError:
        return False
    return True


def clear(folder: Path) -> None:
    """Forget what an earlier run left in `folder`; it must exist."""
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def forget(folder: Path, pid: int) -> None:
    """The process `pid` has ended: its live gauges count no more; its counters stay."""
    with suppress(OSError):
        mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # as above
