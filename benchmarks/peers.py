"""The servers that are compared: what each needs, how it is configured, and what command starts it.

Rule 1: every one is configured as its own manual says it is fast: no access log, kernel sendfile, long keep-alive.
Rule 2: a peer that cannot be had is skipped, with the reason and what would bring it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.content import Content, registry_layout
from benchmarks.nginx import cache_of, files
from benchmarks.processes import Command, Failed, Process, find, free_port


@dataclass(frozen=True)
class Site:
    """Where one server lives: its folder and port, the content, and the port of the source registry."""

    folder: Path
    port: int
    source: int
    content: Content


@dataclass(frozen=True)
class Peer:
    """A kind of server. `pulls`: it is a pull-through cache of the source. `missing`: why it cannot run here."""

    name: str
    title: str
    command: Callable[[Site], Command]
    missing: Callable[[], str | None]
    pulls: bool = False


@dataclass
class Server:
    """A peer that runs."""

    peer: Peer
    port: int
    process: Process
    folder: Path

    @property
    def name(self) -> str:
        return self.peer.name


def start(peer: Peer, scratch: Path, source: int, content: Content) -> Server:
    """Start `peer` in a new folder below `scratch`.

    Raises:
        Failed: it does not start.
    """
    folder = scratch / peer.name
    folder.mkdir()
    port = free_port()
    process = Process(peer.command(Site(folder, port, source, content)), folder, name=peer.name)
    try:
        process.wait_open(port)
    except Failed:
        process.stop()
        raise
    return Server(peer, port, process, folder)


def all_peers(tools: Path, iarproxy: Path, against: Path | None) -> list[Peer]:
    """Every server that can be compared, in the order of the tables."""
    debian, third = "docker-registry", str(tools / "registry")
    other = [_iarproxy("against", "iarproxy, the other checkout", against, 1)] if against else []
    return [
        _iarproxy("iarproxy", "iarproxy, 1 worker", iarproxy, 1),
        _iarproxy("iarproxy2", "iarproxy, 2 workers", iarproxy, 2),
        *other,
        Peer("nginx", "nginx, static files", lambda s: files(s.folder, s.port, s.content), _needs("nginx")),
        Peer(
            "nginx-tuned",
            "nginx, static files, tuned",
            lambda s: files(s.folder, s.port, s.content, tuned=True),
            _needs("nginx"),
        ),
        Peer(
            "nginx2",
            "nginx, 2 workers",
            lambda s: files(s.folder, s.port, s.content, workers=2),
            _needs("nginx"),
        ),
        Peer(
            "nginx-proxy",
            "nginx, proxy_cache",
            lambda s: cache_of(s.folder, s.port, s.source),
            _needs("nginx"),
            pulls=True,
        ),
        Peer("drayage", "drayage", lambda s: _drayage(tools, s), _drayage_missing(tools), pulls=True),
        *_registries("docker-registry", "docker-registry 2", debian, _needs(debian)),
        *_registries("distribution", "distribution 3", third, _distribution_missing(third)),
        Peer(
            "zot",
            "zot",
            lambda _: [],
            lambda: "the Go module proxy here does not serve zotregistry.dev (403)",
            pulls=True,
        ),
    ]


def _needs(program: str) -> Callable[[], str | None]:
    package = {"nginx": "nginx-light"}.get(program, program)
    hint = f"not installed; on Debian: apt-get install -y --no-install-recommends {package}"
    return lambda: None if find(program) else hint


def _iarproxy(name: str, title: str, program: Path, workers: int) -> Peer:
    def missing() -> str | None:
        return None if find(str(program)) else f"{program} is not there; `make run` builds it, --iarproxy names another"

    return Peer(name, title, lambda site: _serve(program, workers, site), missing, pulls=True)


def _serve(program: Path, workers: int, site: Site) -> Command:
    config = site.folder / "iarproxy.toml"
    config.write_text(
        f'[server]\nlisten = ["127.0.0.1:{site.port}"]\nworkers = {workers}\naccess_log = false\n'
        f'graceful_timeout = "2s"\n[admin]\nlisten = "127.0.0.1:{free_port()}"\n'
        f'[store]\npath = "{site.folder}/store"\nmax_size = "500GiB"\n[drift]\ninterval = "0s"\n'
        f'[upstreams."docker.io"]\nurl = "http://127.0.0.1:{site.source}"\n'
    )
    return [program.absolute(), "serve", "--config", config]


def _registries(name: str, title: str, program: str, missing: Callable[[], str | None]) -> list[Peer]:
    return [
        Peer(name, f"{title}, registry", lambda site: _registry(program, site, pulls=False), missing),
        Peer(
            f"{name}-cache",
            f"{title}, pull-through",
            lambda site: _registry(program, site, pulls=True),
            missing,
            pulls=True,
        ),
    ]


def _registry(program: str, site: Site, *, pulls: bool) -> Command:
    data = site.folder / "data"
    data.mkdir()
    if not pulls:
        registry_layout(site.content, data)
    config = site.folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {data}}}\n  cache: {{blobdescriptor: inmemory}}\n"
        f'http: {{addr: "127.0.0.1:{site.port}"}}\n'
        + (f'proxy: {{remoteurl: "http://127.0.0.1:{site.source}"}}\n' if pulls else "")
    )
    return [find(program) or program, "serve", config]


def _distribution_missing(program: str) -> Callable[[], str | None]:
    hint = "not built; with Go on the machine: python -m benchmarks prepare"
    return lambda: None if Path(program).exists() else hint


def _drayage_missing(tools: Path) -> Callable[[], str | None]:
    return lambda: None if (tools / "venv/bin/drayage").exists() else "not installed; python -m benchmarks prepare"


def _drayage(tools: Path, site: Site) -> Command:
    (site.folder / "cache").mkdir()
    config = site.folder / "drayage.toml"
    config.write_text(
        f'listen = "127.0.0.1:{site.port}"\ncache_dir = "{site.folder}/cache"\nmanifest_ttl_seconds = 86400\n'
        f'[upstreams.docker_io]\nregistry = "http://127.0.0.1:{site.source}"\n'
    )
    return [tools / "venv/bin/drayage", "serve", "--config", config]
