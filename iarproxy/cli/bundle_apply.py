"""`iarproxy bundle apply` and `verify`: taking a bundle in, and reading all of it without taking anything.

Rule: what only the person may read or write (the media, keys, where the receipt goes) is opened before root is given
      up; nothing of it is written to but the receipt's file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, assert_never

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from iarproxy.archive.applying.naming import Naming, Prefer
from iarproxy.archive.applying.site import Done, Order, Outcome, Site, Unchanged
from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.verifying import Verified
from iarproxy.archive.verifying import verify as read_all
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.bundle_receipt import acknowledging
from iarproxy.cli.key_reading import signers
from iarproxy.cli.options import ConfigOption, EnvironmentOption, JsonOption, environment_of, load, run
from iarproxy.cli.output import Exit, as_bytes, err, out, plain, print_error, print_json, stop, when
from iarproxy.cli.refusals import refusals
from iarproxy.cli.wiring import Rooms
from iarproxy.config import Config
from iarproxy.errors import Refused
from iarproxy.ledger import DEFAULT, Ledger
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.trust.bundles import Vouched
from iarproxy.trust.environments import Environment
from iarproxy.trust.receipts import MAX_RECEIPT, is_receipt
from iarproxy.trust.signing import PublicKey

_SHORT = 16  # hex digits of a fingerprint
_SHOWN = 20  # names

FoldersArgument = Annotated[
    list[Path], typer.Argument(metavar="DIR...", readable=False, help="The bundle; several: its media.")
]
TrustOption = Annotated[
    list[Path],
    typer.Option("--trust", metavar="NAME.pub", readable=False, help="A signer's public key; again for each signer."),
]
ThresholdOption = Annotated[
    int | None, typer.Option("--threshold", metavar="K", min=1, help="How many signers are enough; default: all.")
]


def apply(
    folders: FoldersArgument,
    *,
    trust: TrustOption,
    threshold: ThresholdOption = None,
    prefer: Annotated[
        Prefer | None, typer.Option("--prefer", help="Which side wins where a name stands for something else here.")
    ] = None,
    accept_expired: Annotated[
        bool, typer.Option("--accept-expired", help="Take it although it expired; say why with --reason.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the journal.")] = "",
    receipt: Annotated[
        Path | None,
        typer.Option("--receipt", metavar="FILE", writable=False, help="Where the receipt goes; default: SET.receipt."),
    ] = None,
    env: EnvironmentOption = DEFAULT,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Verify a bundle and take it in: all of its names change at once, or nothing does.

    Give one medium after the other, in any order: what was verified stays, and the names change with the last. `serve`
    goes on meanwhile. Applying again is harmless.
    """
    if accept_expired and not reason.strip():
        raise typer.BadParameter("--accept-expired needs a --reason, which the journal keeps")
    with refusals(json=json), ExitStack() as opened:
        folder = opened.enter_context(BundleFolder.open(folders))
        order = Order(
            trusted=_signers(trust, threshold),
            threshold=threshold,
            prefer=prefer,
            accept_expired=accept_expired,
            reason=reason.strip() or "a bundle was applied",
            actor=kernel_actor(),
        )
        sink = _early(folder, opened) if receipt is None else opened.enter_context(_sink(receipt))
        environment = environment_of(load(config), env)

        async def command(rooms: Rooms) -> _Ended:
            with _bars("verified", quiet=json) as told:
                outcome = await site_of(rooms, environment).apply(folder, order, told)
            raw = await acknowledging(rooms).receipt(outcome.applied)
            return _Ended(outcome, *_kept(raw, sink, receipt, outcome.applied.set))

        ended = run(config, command)
        if json:
            print_json(_as_json(ended))
        else:
            _print(ended)


def verify(
    folders: FoldersArgument,
    *,
    trust: TrustOption,
    threshold: ThresholdOption = None,
    json: JsonOption = False,
) -> None:
    """Check the signatures of a bundle and read every byte of it; all that is wrong is told. Nothing is changed."""
    with refusals(json=json), BundleFolder.open(folders) as folder:
        with _bars("read", quiet=json) as told:
            found = read_all(folder, _signers(trust, threshold), threshold=threshold, now=datetime.now(UTC), told=told)
        if json:
            print_json(_verified_json(found))
        else:
            _print_verified(found)
        if found.wrong:
            stop(Exit.REFUSED)


def _signers(trust: list[Path], threshold: int | None) -> list[tuple[PublicKey, ...]]:
    """The keys of each signer, of whom so many can vouch."""
    if threshold is not None and threshold > len(trust):
        raise typer.BadParameter(f"--threshold {threshold} of {len(trust)} signers; give --trust for each of them")
    return signers(trust)


def site_of(rooms: Rooms, environment: Environment) -> Site:
    """What applies bundles in these rooms."""
    naming = naming_of(rooms.config, rooms.ledger, environment)
    return Site(rooms.store, rooms.ledger, naming, lambda: datetime.now(UTC))


def naming_of(config: Config, ledger: Ledger, environment: Environment) -> Naming:
    """How names of bundles are taken in an environment."""
    return Naming(ledger, frozenset(config.upstreams), config.rules, environment)


@contextmanager
def _bars(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    silent = quiet or not err.is_terminal
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=err, disable=silent) as bars:
        task = bars.add_task(what, total=None)
        yield lambda more, all_of_it: bars.update(task, advance=more, total=all_of_it)


# --- the receipt -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ended:
    """How it ended. `receipt`: where it was written; None: nowhere, and `remark` says why."""

    outcome: Outcome
    receipt: Path | None
    remark: str = ""


def _early(folder: BundleFolder, opened: ExitStack) -> int | None:
    """A descriptor of the receipt that nobody named; None: it cannot be written, which is told at the end."""
    with suppress(Refused):
        name = BundleManifest.parse(folder.manifest).set
        return opened.enter_context(_sink(Path(f"{name}.receipt")))
    return None


@contextmanager
def _sink(path: Path) -> Iterator[int]:
    """A descriptor of the receipt's file; one that was not there is gone again where the command fails.

    Raises:
        Refused: it cannot be written, or is something else: a part of the bundle, a key.
    """
    target, existed = path.absolute(), os.path.lexists(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(target, flags, 0o644)
    except OSError as error:
        raise Refused(f"the receipt {target} cannot be written: {error.strerror}; name another --receipt") from error
    try:
        _insist_on_file(fd, target)
        yield fd
    except BaseException:
        if not existed:
            with suppress(OSError):
                target.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _insist_on_file(fd: int, target: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Refused(f"the receipt {target} is no file; name another --receipt")
    if os.fstat(fd).st_size and not is_receipt(os.pread(fd, MAX_RECEIPT, 0)):
        raise Refused(f"{target} is there and is no receipt, and so is not replaced; name another --receipt")


def _kept(raw: bytes, sink: int | None, path: Path | None, set_name: str) -> tuple[Path | None, str]:
    """Write the receipt: where, and what is to be said of it. The bundle is applied by now."""
    target = path or Path(f"{set_name}.receipt")
    again = f"`iarproxy bundle receipt {set_name} -o FILE` writes it again"
    try:
        if sink is None:
            with _sink(target) as fd:
                _write(fd, raw)
        else:
            _write(sink, raw)
    except (OSError, Refused) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        return None, f"the bundle is applied, but its receipt was not written: {said}; {again}"
    return target, ""


def _write(fd: int, raw: bytes) -> None:
    os.ftruncate(fd, 0)
    left = memoryview(raw)
    while left:
        left = left[os.write(fd, left) :]
    os.fsync(fd)


# --- what is told ----------------------------------------------------------------------------------------------------


def _as_json(ended: _Ended) -> dict[str, Any]:
    outcome, applied = ended.outcome, ended.outcome.applied
    found = {
        **_bundle_json(outcome.vouched),
        "environment": applied.environment,
        "applied": applied.at,
        "actor": applied.actor,
        "receipt": None if ended.receipt is None else str(ended.receipt),
    }
    match outcome:
        case Unchanged():
            remarks = [ended.remark] if ended.remark else []
            return {**found, "outcome": "unchanged", "bytes": outcome.taken, "remarks": remarks}
        case Done(names=names):
            return {
                **found,
                "outcome": "applied",
                "bytes": outcome.taken,
                "changed": [
                    {"reference": str(each.reference), "new": each.new and str(each.new.digest)}
                    for each in names.changes
                ],
                "unchanged": names.unchanged,
                "followed": len(names.followed),
                "kept": [{"reference": str(each.reference), "why": each.said} for each in names.kept],
                "remarks": [each for each in (*outcome.remarks, ended.remark) if each],
            }
        case _:
            assert_never(outcome)


def _bundle_json(bundle: Vouched) -> dict[str, Any]:
    said = bundle.statement
    return {
        "bundle": str(said.bundle),
        "origin": said.origin,
        "set": said.set,
        "sequence": said.sequence,
        "created": said.created,
        "expires": said.expires,
        "signers": list(bundle.signers),
    }


def _print(ended: _Ended) -> None:
    outcome, applied = ended.outcome, ended.outcome.applied
    which = f"bundle {applied.sequence} of set {applied.set}"
    match outcome:
        case Unchanged():
            lost = f"; {as_bytes(outcome.taken)} that were lost since are back" if outcome.taken else ""
            _line(f"unchanged: {which} was applied at {when(applied.at)} by {applied.actor}{lost}")
        case Done(names=names):
            _line(
                f"applied {which}: {len(names.changes)} names changed, {names.unchanged} as they were;"
                f" {as_bytes(outcome.taken)} taken"
            )
            for each in names.kept[:_SHOWN]:
                _line(f"  kept as it is: {each.said}")
            for remark in outcome.remarks:
                print_error(remark)
        case _:
            assert_never(outcome)
    if ended.remark:
        print_error(ended.remark)
    else:
        _line(f"{ended.receipt}: the receipt; carry it to the origin")


def _verified_json(found: Verified) -> dict[str, Any]:
    wrong = [{"code": code, "error": plain(said)} for code, said in found.wrong]
    first = {"error": plain(found.wrong[0][1]), "code": found.wrong[0][0]} if found.wrong else {}
    return {
        **_bundle_json(found.vouched),
        "ok": not wrong,
        **first,
        "problems": wrong,
        "volumes": found.volumes,
        "remarks": list(map(plain, found.remarks)),
    }


def _print_verified(found: Verified) -> None:
    said = found.vouched.statement
    for remark in found.remarks:
        print_error(remark)
    for code, told in found.wrong:
        print_error(f"{code}: {told}")
    if not found.wrong:
        keys = ", ".join(each[:_SHORT] for each in found.vouched.signers)
        _line(
            f"bundle {said.sequence} of set {said.set} is whole: {found.volumes} volumes, signed by {keys},"
            f" expires at {when(said.expires)}"
        )


def _line(text: str) -> None:
    out.print(plain(text), markup=False)
