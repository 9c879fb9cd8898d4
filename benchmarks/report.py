"""The report `docs/benchmarks.md`: made from the results and from `notes.md`, which a person writes, alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import tables
from benchmarks.plot import Bar, bars, save
from benchmarks.results import OURS, Found, Shown, plain, size, times

NOTES = Path(__file__).parent / "notes.md"
_HEAD = """\
<!-- Made by `python -m benchmarks report`. What a person has to say goes into benchmarks/notes.md. -->
# Benchmarks

How iarproxy compares with nginx and with other registries and caches, measured in one interleaved run by `make bench`.
[How to run and read this, and where it can mislead](../benchmarks/README.md).

"""
_PLOTS: list[tuple[str, str, Shown]] = [
    ("manifest-get", "requests_per_cpu", plain),
    ("manifest-unique", "requests_per_cpu", plain),
    ("blob64k", "requests_per_cpu", plain),
    ("blob4m", "bytes_per_cpu", size),
    ("blob256m", "bytes_per_cpu", size),
    ("cold-blob", "bytes_per_second", size),
    ("herd-100", "upstream_ratio", times),
    ("memory", "busy", size),
]
_UNDER = {
    "requests_per_cpu": "requests per CPU-second of the server, median; more is better",
    "bytes_per_cpu": "bytes per CPU-second of the server, median; more is better",
    "bytes_per_second": "bytes a second, median; more is better",
    "upstream_ratio": "bytes fetched from upstream, in sizes of the blob; 1 is best",
    "busy": "proportional set size of all processes while a hot manifest is read; less is better",
}


def write(results: Path, docs: Path) -> None:
    """Make `docs/benchmarks.md` and its plots from the results."""
    found = Found(json.loads(results.read_text()))
    docs.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD, *_goals(found), *_machine(found), *_plots(found, docs / "benchmarks"), *_numbers(found)]
    (docs / "benchmarks.md").write_text("\n".join(part.rstrip("\n") + "\n" for part in parts))


def _goals(found: Found) -> Iterator[str]:
    yield "## Goals\n"
    if any(work["quick"] for work in found.raw["workloads"].values()):
        yield "**A part of this is from a quick run: few short rounds, smaller blobs and herds.**\n"
    yield tables.goal_table(found)
    if NOTES.exists():
        yield NOTES.read_text()


def _machine(found: Found) -> Iterator[str]:
    machine = found.raw["machine"]
    facts = {key: value for key, value in machine.items() if key != "versions"} | machine["versions"]
    yield "## Machine and versions\n"
    yield tables.table(["", ""], ([key.replace("_", " "), str(value)] for key, value in facts.items()))
    left_out = found.raw.get("skipped", {})
    if left_out:
        yield "Left out:\n"
        yield "\n".join(f"- {name}: {str(reason).strip().splitlines()[-1]}" for name, reason in left_out.items()) + "\n"


def _plots(found: Found, folder: Path) -> Iterator[str]:
    yield "## At a glance\n"
    for work, metric, show in _PLOTS:
        if work not in found.raw["workloads"]:
            continue
        rows = []
        for server in found.servers(work):
            value = found.value(work, server, metric)
            if value is not None:  # a server without a value has no bar; its table says why
                rows.append(
                    Bar(found.label(server), value, _note(found, work, metric, server), server.startswith(OURS))
                )
        title = found.title(work)
        yield save(folder, work, bars(title[0].upper() + title[1:], _UNDER[metric], rows, show))


def _note(found: Found, work: str, metric: str, server: str) -> str:
    part = found.ratio(work, metric, "nginx", server) if server != "nginx" else None
    return f"({plain(part)} x nginx)" if part is not None else ""


def _numbers(found: Found) -> Iterator[str]:
    yield "## iarproxy to each peer, work per CPU-second\n"
    yield "More than 1: iarproxy does more with the same processor time. Medians over the rounds of paired samples.\n"
    yield tables.ratio_table(found)
    yield "## With empty caches, whole images, memory\n"
    yield from tables.staged_tables(found)
    if found.raw.get("growth"):
        yield "### Growth: iarproxy with as many blobs and pins\n"
        yield tables.growth_table(found.raw["growth"])
    yield "## Hot work, server by server\n"
    yield from tables.hot_tables(found)
