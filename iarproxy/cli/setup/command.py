"""`iarproxy setup [CLIENT]`: print, write, undo or check a client's mirror configuration.

Rule 1: printing is the default; it changes nothing and shows of merged files only what is ours.
Rule 2: exit codes of --check: 0 proven; 1 pulls do not arrive; 3 they arrive, but what we refuse is asked of the real
        registry; 4 it could not be tried.
"""

from __future__ import annotations

import secrets
import string
import tempfile
from collections.abc import Callable
from functools import partial
from glob import escape
from pathlib import Path

import typer

from iarproxy.cli.options import ConfigOption, JsonOption, load
from iarproxy.cli.output import Exit, print_json, print_table, stop
from iarproxy.cli.setup import addressing, checking, probing, showing, writing
from iarproxy.cli.setup.checking import Report, Verdict
from iarproxy.cli.setup.clients import CLIENTS, Client, this_person
from iarproxy.cli.setup.docker import reads_hosts_toml
from iarproxy.cli.setup.options import (
    ArgumentOption,
    CaOption,
    CheckOption,
    ClientArgument,
    ClientConfigOption,
    ImageOption,
    OverwriteOption,
    PushOption,
    RegistryOption,
    RootOption,
    StoreOption,
    StrictOption,
    UndoOption,
    UrlOption,
    VersionOption,
    WriteOption,
)
from iarproxy.cli.setup.plan import (
    EVERY,
    IMAGE,
    Fall,
    Finding,
    NoStrictForm,
    Version,
    Wish,
    parse_version,
)
from iarproxy.cli.setup.probing import Style
from iarproxy.cli.setup.programs import ask_dockerd, version_of
from iarproxy.cli.setup.pulling import Puller, pullers
from iarproxy.cli.setup.reading import read_ca
from iarproxy.cli.setup.writing import Standing
from iarproxy.errors import Refused, Unavailable
from iarproxy.oci import DOCKER_HUB

_NONCE = string.ascii_lowercase + string.digits
_EXITS = {
    Verdict.PROVEN: Exit.DONE,
    Verdict.BYPASSED: Exit.FOUND,
    Verdict.WRONG: Exit.REFUSED,
    Verdict.UNPROVEN: Exit.UNAVAILABLE,
}


def setup(
    client: ClientArgument = None,
    *,
    write: WriteOption = False,
    undo: UndoOption = False,
    check: CheckOption = False,
    strict: StrictOption = False,
    push: PushOption = False,
    url: UrlOption = None,
    ca_file: CaOption = None,
    registry: RegistryOption = [],  # noqa: B006  # typer reads it, nobody changes it
    root: RootOption = None,
    config_file: ClientConfigOption = None,
    version: VersionOption = None,
    store: StoreOption = None,
    argument: ArgumentOption = [],  # noqa: B006  # as above
    image: ImageOption = IMAGE,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Set up a client to pull through this mirror, and prove it.

    Prints what to write by default. Files that were there are kept, so that --undo brings them back.
    """
    if client is None:
        _list_clients(as_json=json)
        return
    _agree(client, acts=(write, undo, check), strict=strict, push=push)
    chosen, person = CLIENTS[client], this_person()
    folder = root or chosen.folder(person)
    main = config_file or (folder / chosen.config_file if chosen.config_file and root is None else None)
    main = Path(main).parent.resolve() / main.name if main else None
    if undo:
        _undo([*(f"{escape(str(folder))}/{each}" for each in chosen.places), *_alone(main)], as_json=json)
        return
    settings = load(config)
    daemon = ask_dockerd() if chosen.name in ("docker", "docker-desktop") else None
    wish = Wish(
        addressing.mirror(settings, chosen, url, ca_file, registry),
        folder,
        (Fall.DIGESTS if push else Fall.NONE) if strict else Fall.OPEN,
        main,
        _version(version) if version else (daemon.version if daemon else version_of(chosen.version)),
        store or (daemon.store if daemon and chosen.name == "docker" else None),  # Desktop's certs.d is out of reach
        daemon.mirrors if daemon else None,
        image,
    )
    if check:
        local = addressing.local_url(settings, wish.mirror)
        made = partial(pullers, chosen.programs, wish, argument, rooted=root is not None)
        _check(chosen, wish, chosen.inspect(wish, person), partial(_prove, chosen, wish, local, made), as_json=json)
    else:
        _plan(chosen, wish, write=write, overwrite=overwrite, as_json=json)


def _version(text: str) -> Version:
    found = parse_version(text)
    if found is None:
        raise typer.BadParameter(f"{text[:40]!r} is no version; write it as 1.7 or 28.5.2")
    return found


def _agree(client: str, *, acts: tuple[bool, ...], strict: bool, push: bool) -> None:
    """Refuse options that do not go together."""
    if sum(acts) > 1:
        raise typer.BadParameter("--write, --undo and --check are three different things; give one")
    if push and not strict:
        raise typer.BadParameter("--push goes with --strict; the ordinary form lets pushes pass anyway")
    if client not in CLIENTS:
        raise typer.BadParameter(f"no client {client!r}; there are {', '.join(CLIENTS)}")


def _list_clients(*, as_json: bool) -> None:
    if as_json:
        print_json({"clients": {each.name: each.summary for each in CLIENTS.values()}})
        return
    print_table(["CLIENT", "WHAT"], [[each.name, each.summary] for each in CLIENTS.values()], empty="none")


def _alone(path: Path | None) -> list[str]:
    """The pattern that finds one file."""
    return [escape(str(path))] if path else []


def _plan(client: Client, wish: Wish, *, write: bool, overwrite: bool, as_json: bool) -> None:
    try:
        plan = client.plan(wish)
    except NoStrictForm as error:
        if as_json:
            print_json({"client": client.name, "strict": None, "instead": list(error.instead)})
        else:
            showing.show_instead(error)
        raise
    if write and wish.mirror.ca is not None:
        read_ca(wish.mirror.ca)  # a client that is told a path that leads nowhere fails, or goes elsewhere
    steps = writing.write(plan.changes, overwrite=overwrite) if write else []
    if as_json:
        print_json(showing.plan_as_json(client.name, wish, plan, steps))
    elif write:
        showing.show_written(plan, steps)
    else:
        showing.show_plan(plan)


def _undo(places: list[str], *, as_json: bool) -> None:
    done = writing.undo(places)
    if as_json:
        print_json({"files": [{"path": str(path), "done": standing} for path, standing in done]})
    else:
        showing.show_undone(done)
    edited = [path for path, standing in done if standing is Standing.EDITED]
    if edited:
        kept = writing.backup_of(edited[0])
        where = f"what was there before is in {kept}" if kept else "there was no file before"
        raise Refused(f"{edited[0]}: was edited since we wrote it, and is left as it is; {where}")


def _check(
    client: Client, wish: Wish, findings: list[Finding], prove: Callable[[list[Finding]], Report], *, as_json: bool
) -> None:
    silent = None
    try:
        report = prove(findings)
    except Unavailable as error:
        report, silent = Report(tuple(findings), absent=(str(error),)), error
    if as_json:
        print_json(showing.check_as_json(client.name, wish, report))
    else:
        showing.show_check(report, wish.mirror.url)
    if silent is not None:
        raise silent
    stop(_EXITS[report.verdict])


def _prove(
    client: Client, wish: Wish, local: str, made: Callable[[Path], list[Puller]], findings: list[Finding]
) -> Report:
    """Ask the mirror at `local`, then run each program; `made` gives them a folder for what they write.

    Raises:
        Unavailable: the mirror does not answer as it should.
    """
    style, registries = _style(client, wish), wish.mirror.registries
    nonce = "".join(secrets.choice(_NONCE) for _ in range(16))
    if style is Style.PLAIN or EVERY in registries:
        registries = (wish.mirror.default or DOCKER_HUB,)
    promised = {each: probing.ask(local, wish.mirror, each, nonce, style) for each in registries}
    if not client.programs:
        return Report(tuple(findings), absent=(_by_hand(client, registries[0], nonce),))
    with tempfile.TemporaryDirectory(prefix="iarproxy-check-") as scratch:
        return checking.check(findings, made(Path(scratch)), promised, nonce)


def _by_hand(client: Client, registry: str, nonce: str) -> str:
    name = f"{registry}/{probing.REPOSITORY}"
    return (
        f"this check runs no program of {client.name}; have it pull {name}:pass-{nonce}, which must work, and"
        f" {name}:deny-{nonce}, which must fail without asking {registry}"
    )


def _style(client: Client, wish: Wish) -> Style:
    if client.name in ("podman", "skopeo", "buildah", "cri-o", "buildkit"):
        return Style.PREFIX
    if client.name in ("docker", "docker-desktop") and not reads_hosts_toml(wish):
        return Style.PLAIN
    return Style.NS
