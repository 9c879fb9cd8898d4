"""The tables of the report, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.goals import goals
from benchmarks.results import OURS, Found, Shown, plain, seconds, size, span, times

Column = tuple[str, str, Shown]  # metric, heading, how it is shown

COLD: Sequence[Column] = (
    ("first_byte_p50_us", "first byte, p50", span),
    ("first_byte_p99_us", "p99", span),
    ("bytes_per_second", "bytes/s", size),
    ("bytes_per_cpu", "bytes per CPU-s", size),
    ("upstream_ratio", "upstream bytes", times),
)
HERD: Sequence[Column] = (
    ("failures", "failures", lambda value: f"{value:.0f}"),
    ("upstream_ratio", "upstream bytes", times),
    ("seconds", "until all have it", seconds),
    ("single_seconds", "one client alone", seconds),
    ("bytes_per_second", "bytes/s", size),
    ("bytes_per_cpu", "bytes per CPU-s", size),
    ("first_byte_p50_us", "first byte, p50", span),
    ("first_byte_max_us", "latest", span),
)
INGEST: Sequence[Column] = (
    ("idle_p50_us", "p50 before", span),
    ("p50_us", "p50 while", span),
    ("idle_p99_us", "p99 before", span),
    ("p99_us", "p99 while", span),
    ("p99_ratio", "p99 while / before", times),
    ("requests_per_second", "requests/s while", plain),
    ("ingest_seconds", "blob took", seconds),
)
IMAGE: Sequence[Column] = (
    ("seconds", "cold", seconds),
    ("server_cpu", "server's CPU", seconds),
    ("warm_seconds", "warm", seconds),
    ("warm_server_cpu", "server's CPU", seconds),
    ("upstream_ratio", "upstream bytes", times),
    ("upstream_requests", "upstream requests", plain),
)
MEMORY: Sequence[Column] = (
    ("processes", "processes", lambda value: f"{value:.0f}"),
    ("idle", "idle", size),
    ("idle_worker", "idle, largest worker", size),
    ("busy", "hot manifest", size),
    ("cold_4m", "cold 4 MiB", size),
    ("cold_64m", "cold 64 MiB", size),
    ("cold_1g", "cold 1 GiB", size),
    ("hot_1g", "hot 1 GiB", size),
    ("crowd", "with idle connections", size),
    ("per_connection", "each", size),
)
STAGED = {"cold": COLD, "herd": HERD, "ingest": INGEST, "image": IMAGE, "memory": MEMORY}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def goal_table(found: Found) -> str:
    """The goals."""
    rows = []
    for goal in goals(found):
        value = "-" if goal.value is None else goal.show(goal.value)
        rows.append([goal.work, goal.wanted, value, goal.verdict])
    return table(["work", "goal", "measured", ""], rows)


def ratio_table(found: Found) -> str:
    """Ours divided by each peer's, per CPU-second, for all hot work."""
    works = found.workloads("requests", "bytes")
    peers = [each for each in _servers(found, works) if each != OURS]
    rows = []
    for work in works:
        metric = f"{found.raw['workloads'][work]['kind']}_per_cpu"
        rows.append([f"`{work}`", *(_or_dash(found.ratio(work, metric, peer), plain) for peer in peers)])
    return table(["", *peers], rows)


def hot_tables(found: Found) -> Iterator[str]:
    """For each hot workload the servers, one below the other."""
    for work in found.workloads("requests", "bytes"):
        unit, show = found.raw["workloads"][work]["kind"], plain
        if unit == "bytes":
            show = size
        columns: Sequence[Column] = (
            (f"{unit}_per_cpu", f"{unit} per CPU-s", show),
            (f"{unit}_per_second", f"{unit}/s", show),
            ("p50_us", "p50", span),
            ("p99_us", "p99", span),
            ("upstream_requests", "upstream requests", plain),
            ("generator_share", "generator's CPU", lambda share: f"{share:.0%}"),
        )
        yield f"#### `{work}`: {found.title(work)}\n"
        yield _by_server(found, work, columns, against=f"{unit}_per_cpu")


def staged_tables(found: Found) -> Iterator[str]:
    """The tables of the workloads that begin with empty caches."""
    for work in found.workloads(*STAGED):
        yield f"### `{work}`: {found.title(work)}\n"
        yield _by_server(found, work, STAGED[found.raw["workloads"][work]["kind"]])


def growth_table(grown: dict[str, dict[str, Any]]) -> str:
    """What the growth benchmark measured, whatever it is: one row for each fact."""
    counts = list(grown)
    facts = dict.fromkeys(name for count in counts for name in grown[count])
    rows = [[name.replace("_", " "), *(_fact(grown[count].get(name)) for count in counts)] for name in facts]
    return table(["", *(f"{int(count):,}" for count in counts)], rows)


def _fact(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else plain(value) if value >= 0.01 else f"{value:.2g}"
    return "-" if value is None else str(value)


def _servers(found: Found, works: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(server for work in works for server in found.servers(work)))


def _by_server(found: Found, work: str, columns: Sequence[Column], against: str | None = None) -> str:
    extra = ["spread", "to nginx"] if against else []
    rows = []
    for server in found.servers(work):
        failure = found.failure(work, server)
        cells = [_or_dash(found.value(work, server, metric), show) for metric, _, show in columns]
        if against:
            cells[1:1] = [
                _or_dash(found.spread(work, server, against), lambda share: f"{share:.0%}"),
                _or_dash(found.ratio(work, against, "nginx", server), plain),
            ]
        if failure:
            cells = [f"failed: {failure[:160]}", *[""] * (len(cells) - 1)]
        rows.append([f"**{server}**" if server == OURS else server, *cells])
    heads = [heading for _, heading, _ in columns]
    return table(["", heads[0], *extra, *heads[1:]], rows)


def _or_dash(value: float | None, show: Shown) -> str:
    return "-" if value is None else show(value)
