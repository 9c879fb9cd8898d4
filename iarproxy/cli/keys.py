"""`iarproxy keys`: keys of people, who sign bundles with them and trust each other's.

Rule 1: the files are the person's who runs the command, in the folder that the person names; no store is looked at.
Rule 2: nothing is ever overwritten, and what a command that fails made is gone again.
Rule 3: a private key has mode 0600 from its first byte, and is never shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from iarproxy.cli.key_reading import private_key, rotations_beside, signers
from iarproxy.cli.options import JsonOption
from iarproxy.cli.output import out, print_json
from iarproxy.cli.writing import output
from iarproxy.errors import Refused
from iarproxy.ledger import key_files
from iarproxy.trust.rotations import file_of, rotation_of
from iarproxy.trust.signing import KeyType, PrivateKey

app = typer.Typer(help="Keys that sign bundles, and those of others that are trusted.", no_args_is_help=True)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="NAME.key and NAME.pub are written; NAME may lie in another folder.")
]
TypeOption = Annotated[KeyType, typer.Option("--type", help="How it signs; cosign verifies both.")]


@app.command()
def create(name: NameArgument, kind: TypeOption = KeyType.ECDSA, json: JsonOption = False) -> None:
    """Make a key: NAME.key, which stays with you, and NAME.pub, for those who shall trust what it signs."""
    key = PrivateKey.made(kind)
    with _written(name, key) as (private, public):
        pass
    _tell(key, {"key": private, "pub": public}, json=json)


@app.command()
def rotate(
    old: Annotated[Path, typer.Argument(metavar="OLD.key", readable=False, help="The key that signed so far.")],
    name: NameArgument,
    kind: TypeOption = KeyType.ECDSA,
    json: JsonOption = False,
) -> None:
    """Make a key that takes another one's place: the old key signs for it.

    Those who trust OLD.pub take bundles by the new key, for the rotation goes along with them from its file beside the
    key. A site that applied one refuses the old key from then on. Destroy OLD.key when no site waits for its bundles.
    """
    outgoing, key = private_key(old), PrivateKey.made(kind)
    before = rotations_beside(old, outgoing.public)
    said = _path(name, "").with_name(file_of(outgoing.public))
    if (earlier := old.absolute().with_name(said.name)).exists() or said.exists():
        there = said if said.exists() else earlier
        raise Refused(f"{old} has a successor already, as {there} says; a key has one: rotate that one")
    with ExitStack() as undo:
        private, public = undo.enter_context(_written(name, key))
        undo.enter_context(output(said)).write(rotation_of(outgoing, key.public))
        for each, raw in before.items():
            if not said.with_name(each).exists():
                undo.enter_context(output(said.with_name(each))).write(raw)
    _tell(key, {"key": private, "pub": public, "rotation": said}, json=json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="A .pub file, of one signer's keys.")],
    json: JsonOption = False,
) -> None:
    """Show which keys a .pub file holds, by their fingerprints, as messages and names of signatures have them."""
    (found,) = signers([file])
    if json:
        print_json([{"type": each.type, "fingerprint": each.fingerprint, "hint": each.hint} for each in found])
        return
    for each in found:
        out.print(f"{each.fingerprint}  {each.type}", markup=False)


@contextmanager
def _written(name: str, key: PrivateKey) -> Iterator[tuple[Path, Path]]:
    """The two files of a new key; gone again where the block fails."""
    private, public = _path(name, ".key"), _path(name, ".pub")
    with output(public) as sink:
        sink.write(key.public.pem)
        try:
            key_files.create(private, key.pem)
        except FileExistsError:
            raise Refused(f"{private} exists, and is not overwritten; choose another name") from None
        except OSError as error:
            raise Refused(f"{private} cannot be made: {error.strerror}") from error
        try:
            yield private, public
        except BaseException:
            private.unlink(missing_ok=True)
            raise


def _path(name: str, suffix: str) -> Path:
    path = Path(name).absolute()
    if name.endswith(("/", ".")) or not name.strip():  # what stands for a folder would be made beside it
        raise typer.BadParameter(f"{name!r} is no name of a key; NAME.key and NAME.pub are made")
    if path.suffix in {".key", ".pub"} or not path.name.isprintable():
        raise typer.BadParameter(f"{name}: give the name without .key or .pub; both files are made")
    return path.with_name(path.name + suffix)


def _tell(key: PrivateKey, files: dict[str, Path], *, json: bool) -> None:
    if json:
        print_json({"type": key.public.type, "fingerprint": key.public.fingerprint, **files})
        return
    out.print(f"{key.public.fingerprint}  {key.public.type}", markup=False)
    out.print(f"  keep   {files['key']}", markup=False)
    out.print(f"  give   {files['pub']}  to those who shall trust it", markup=False)
    if "rotation" in files:
        out.print(f"  beside {files['rotation']}  goes along with bundles; keep it beside the key", markup=False)
