"""`iarproxy lock from-cluster`: the lock of what a Kubernetes cluster runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from iarproxy.cli import lock_files
from iarproxy.cli.lock_options import OutputFormatOption, insist_writable, locking, pair, tell_skipped
from iarproxy.cli.options import ConfigOption, EnvironmentOption, JsonOption, environment_of, run
from iarproxy.cli.output import Exit, print_error, print_json, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.ledger import DEFAULT
from iarproxy.oci.cluster import Running, read_cluster
from iarproxy.oci.cluster_lock import ClusterLock, lock_of, references_of
from iarproxy.oci.lock import Locked, LockFormat, Skipped
from iarproxy.oci.lock_reading import write_lock


def from_cluster(
    file: Annotated[
        str, typer.Argument(metavar="FILE|DIR|-", help="Manifests, or what `kubectl get pods -A -o json` printed.")
    ],
    *,
    to: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")] = "-",
    env: EnvironmentOption = DEFAULT,
    form: OutputFormatOption = LockFormat.IAR,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a tag's digest is not known.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write the lock of what a cluster runs.

    The digest is the one that the cluster reports (imageID), else the one in the manifest, else that of our pin. What
    has none, what disagrees with a pin, and what looks like an image and was not read goes to standard error.
    """
    insist_writable(form)
    images: list[Running] = []
    skipped: list[Skipped] = []
    for name, data in lock_files.tree(file):
        found = read_cluster(data, name)
        images += found.images
        skipped += found.skipped

    async def command(rooms: Rooms) -> ClusterLock:
        name = environment_of(rooms.config, env).name
        return lock_of(images, await locking(rooms).pinned(name, references_of(images)))

    judged = run(config, command)
    skipped += judged.lock.skipped
    if json:
        print_json(_cluster_as_json(judged, skipped))
    if not json or to != lock_files.STANDARD:
        lock_files.write(to, write_lock(judged.lock, form, env), form)
    if not json:
        _tell_cluster(judged, skipped)
    if strict and judged.unresolved:
        stop(Exit.REFUSED)


def _tell_cluster(judged: ClusterLock, skipped: Sequence[Skipped]) -> None:
    tell_skipped(skipped)
    for each in judged.unresolved:
        print_error(f"not resolved: {each.reference}: {each.reason} ({each.place})")
    for other in judged.disagreements:
        print_error(
            f"runs something else than is pinned: {other.reference}: pinned {other.pinned}, runs"
            f" {other.observed} ({other.place})"
        )


def _cluster_as_json(judged: ClusterLock, skipped: Sequence[Skipped]) -> dict[str, Any]:
    return {
        "entries": [_entry_as_json(each) for each in judged.lock.entries],
        "unresolved": [
            {"reference": str(each.reference), "reason": each.reason, "place": each.place} for each in judged.unresolved
        ],
        "disagreements": [
            {
                "reference": str(each.reference),
                "pinned": str(each.pinned),
                "observed": str(each.observed),
                "place": each.place,
            }
            for each in judged.disagreements
        ],
        "skipped": [str(each) for each in skipped],
    }


def _entry_as_json(entry: Locked) -> dict[str, Any]:
    return pair(entry.reference, entry.digest) | {"mediaType": entry.media_type or None, "size": entry.size}
