"""`iarproxy bundle verify`: reading all of a bundle without taking anything; and what `apply` shares with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.verifying import Verified
from iarproxy.archive.verifying import verify as read_all
from iarproxy.cli.key_reading import signers
from iarproxy.cli.options import JsonOption
from iarproxy.cli.output import Exit, err, out, plain, print_error, print_json, stop, when
from iarproxy.cli.refusals import refusals
from iarproxy.trust.bundles import Vouched
from iarproxy.trust.signing import PublicKey

_SHORT = 16  # hex digits of a fingerprint

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


def verify(
    folders: FoldersArgument,
    *,
    trust: TrustOption,
    threshold: ThresholdOption = None,
    json: JsonOption = False,
) -> None:
    """Check the signatures of a bundle and read every byte of it; all that is wrong is told. Nothing is changed."""
    with refusals(json=json), BundleFolder.open(folders) as folder:
        with bars("read", quiet=json) as told:
            found = read_all(
                folder, signers_of(trust, threshold), threshold=threshold, now=datetime.now(UTC), told=told
            )
        if json:
            print_json(_verified_json(found))
        else:
            _print_verified(found)
        if found.wrong:
            stop(Exit.REFUSED)


def signers_of(trust: list[Path], threshold: int | None) -> list[tuple[PublicKey, ...]]:
    """The keys of each signer, of whom so many can vouch."""
    if threshold is not None and threshold > len(trust):
        raise typer.BadParameter(f"--threshold {threshold} of {len(trust)} signers; give --trust for each of them")
    return signers(trust)


@contextmanager
def bars(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    silent = quiet or not err.is_terminal
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=err, disable=silent) as shown:
        task = shown.add_task(what, total=None)
        yield lambda more, all_of_it: shown.update(task, advance=more, total=all_of_it)


def bundle_json(bundle: Vouched) -> dict[str, Any]:
    """A bundle by what its signers say, for scripts."""
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


def _verified_json(found: Verified) -> dict[str, Any]:
    wrong = [{"code": code, "error": plain(said)} for code, said in found.wrong]
    first = {"error": plain(found.wrong[0][1]), "code": found.wrong[0][0]} if found.wrong else {}
    return {
        **bundle_json(found.vouched),
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
        line = (
            f"bundle {said.sequence} of set {said.set} is whole: {found.volumes} volumes, signed by {keys},"
            f" expires at {when(said.expires)}"
        )
        out.print(plain(line), markup=False)
