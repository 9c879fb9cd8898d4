"""`iarproxy bundle apply`: taking a bundle in.

Rule: what only the person may read or write (the media, keys, where the receipt goes) is opened before root is given
      up; nothing of it is written to but the receipt's file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, assert_never

import typer

from iarproxy.archive.applying.naming import Naming, Prefer
from iarproxy.archive.applying.site import Done, Order, Outcome, Site, Unchanged
from iarproxy.archive.folder import BundleFolder
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.bundle_receipt import acknowledging
from iarproxy.cli.bundle_verify import FoldersArgument, ThresholdOption, TrustOption, bars, bundle_json, signers_of
from iarproxy.cli.holdings import Holdings
from iarproxy.cli.options import ConfigOption, EnvironmentOption, JsonOption, environment_of, load, run_held
from iarproxy.cli.output import as_bytes, out, plain, print_error, print_json, when
from iarproxy.cli.refusals import refusals
from iarproxy.config import Config
from iarproxy.errors import Refused
from iarproxy.ledger import DEFAULT, Ledger
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.trust.environments import Environment
from iarproxy.trust.receipts import MAX_RECEIPT, is_receipt

_SHOWN = 20  # names


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
            trusted=signers_of(trust, threshold),
            threshold=threshold,
            prefer=prefer,
            accept_expired=accept_expired,
            reason=reason.strip() or "a bundle was applied",
            actor=kernel_actor(),
        )
        sink = _early(folder, opened) if receipt is None else opened.enter_context(_sink(receipt))
        environment = environment_of(load(config), env)

        async def command(holdings: Holdings) -> _Ended:
            with bars("verified", quiet=json) as told:
                outcome = await site_of(holdings, environment).apply(folder, order, told)
            raw = await acknowledging(holdings).receipt(outcome.applied)
            return _Ended(outcome, *_kept(raw, sink, receipt, outcome.applied.set))

        ended = run_held(config, command)
        if json:
            print_json(_as_json(ended))
        else:
            _print(ended)


def site_of(holdings: Holdings, environment: Environment) -> Site:
    """What applies bundles in these holdings."""
    naming = naming_of(holdings.config, holdings.ledger, environment)
    return Site(holdings.store, holdings.ledger, naming, lambda: datetime.now(UTC))


def naming_of(config: Config, ledger: Ledger, environment: Environment) -> Naming:
    """How names of bundles are taken in an environment."""
    return Naming(ledger, frozenset(config.upstreams), config.rules, environment)


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
        if not existed and not os.fstat(fd).st_size:  # another apply may have written its receipt there
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
        **bundle_json(outcome.vouched),
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


def _line(text: str) -> None:
    out.print(plain(text), markup=False)
