"""`iarproxy lock` and `iarproxy diff` as a person and a pipeline run them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import structlog

from ended import Ended
from iarproxy.cli import app
from test_commands import REFERENCE, Machine, a_machine

APP = REFERENCE.rpartition(":")[0]
ENVIRONMENTS = """
[environments.prod]
path_prefix = "prod"
pins_from = "lock"
[environments.rel]
path_prefix = "rel"
pins_from = "promotion"
"""


class Here(Machine):
    """The same machine, whose commands run in this process: a tenth of the time."""

    def run(self, *arguments: str) -> Ended:
        last_resort = logging.lastResort
        try:
            return self._run(*arguments)
        finally:  # where its logs went is closed
            structlog.reset_defaults()
            logging.lastResort = last_resort

    def _run(self, *arguments: str) -> Ended:
        with redirect_stdout(TextIOWrapper(BytesIO(), "utf-8", write_through=True)) as out:  # noqa: SIM117
            with redirect_stderr(TextIOWrapper(BytesIO(), "utf-8", write_through=True)) as err:
                try:
                    code = app.run(list(arguments))
                except SystemExit as stopped:
                    code = int(str(stopped.code))
        return Ended(code, *(each.buffer.getvalue().decode() for each in (out, err)))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with a_machine(tmp_path) as made:
        file = tmp_path / "iarproxy.toml"
        file.write_text(file.read_text() + ENVIRONMENTS)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield Here(made.registry, made.folder, made.environment)


def write(machine: Machine, name: str, *entries: tuple[str, str]) -> str:
    """A list of tags and digests."""
    (machine.folder / name).write_text("".join(f"{APP}:{tag}@{digest}\n" for tag, digest in entries))
    return name


def pinned(machine: Machine, environment: str = "default") -> dict[str, str]:
    text = machine.run("lock", "export", "-", "--env", environment, "--format", "list").out
    return dict(line.removeprefix(f"{APP}:").split("@") for line in text.splitlines())


def test_export_is_stable_and_careful(machine: Machine) -> None:
    """The same pins give the same bytes, atomically; what is no lock of that kind is not written over."""
    digest = machine.publish(1)
    machine.publish(2, tag="2")
    assert 0 == machine.run("pull", REFERENCE, f"{APP}:2").code
    assert 0 == machine.run("lock", "export", "iar.lock", "--match", "**:1").code
    written = (machine.folder / "iar.lock").read_text()
    expected = f"{REFERENCE}@{digest} application/vnd.oci.image.manifest.v1+json "
    assert ("# iar.lock 1", True, 1) == (written.partition("\n")[0], expected in written, written.count("@"))
    (machine.folder / "iar.lock").chmod(0o640)
    assert 0 == machine.run("lock", "export", "iar.lock", "--match", "**:1").code
    assert (written, 0o640) == (
        (machine.folder / "iar.lock").read_text(),
        (machine.folder / "iar.lock").stat().st_mode & 0o777,
    )
    for arguments, said in [
        (["iarproxy.toml"], "holds something else"),
        (["iar.lock", "--format", "list"], "holds something else"),
        (["."], "is no ordinary file"),
        (["none/iar.lock"], "cannot be written"),
    ]:
        refused = machine.run("lock", "export", *arguments)
        assert (1, True) == (refused.code, said in refused.err), refused.err
    assert 2 == machine.run("lock", "export", "-", "--format", "kbld").code
    assert {"iar.lock", "iarproxy.toml"} == {
        each.name for each in machine.folder.iterdir() if each.is_file()
    }  # nothing half-written is left


def test_import_tells_differences_and_changes_all_or_nothing(machine: Machine) -> None:
    """Differing pins end it with 1 and nothing is imported; --repin with a reason is one act of the person."""
    old, new = machine.publish(1), machine.publish(2, tag="2")
    machine.run("pull", REFERENCE)
    file = write(machine, "team.txt", ("1", new), ("2", new))
    refused = machine.run("lock", "import", file, "--json")
    assert (1, [{"reference": REFERENCE, "pinned": old, "wanted": new}], False) == (
        refused.code,
        refused.json["differs"],
        refused.json["done"],
    )
    assert {"1": old} == pinned(machine)
    assert 2 == machine.run("lock", "import", file, "--repin").code
    dry = machine.run("lock", "import", file, "--repin", "--reason", "reviewed", "--dry-run")
    assert (0, {"1": old}) == (dry.code, pinned(machine))
    done = machine.run("lock", "import", file, "--repin", "--reason", "reviewed")
    assert (0, {"1": new, "2": new}) == (done.code, pinned(machine))
    event = machine.run("pins", "history", REFERENCE, "--json").json[-1]
    assert ("imported", "reviewed", file) == (event["kind"], event["reason"], event["body"]["file"])
    assert f"uid {os.getuid()}" in event["actor"]
    again = machine.run("lock", "import", file)
    assert (0, True) == (again.code, "2 unchanged, 0 new, 0 differ; nothing is changed" in again.out)


def test_what_cannot_be_had_imports_nothing(machine: Machine) -> None:
    """An entry that nobody has is listed with exit 4; so is silence; what could be had is not pinned either."""
    digest = machine.publish(1)
    file = write(machine, "team.txt", ("1", digest), ("9", f"sha256:{'0' * 64}"))
    failed = machine.run("lock", "import", file)
    assert (4, True, {}) == (failed.code, f"{APP}:9: sha256:000" in failed.err, pinned(machine))
    seeded = machine.run("lock", "import", file, "--seeds")
    assert (0, True, {}) == (seeded.code, "2 seeds recorded" in seeded.out, pinned(machine))
    machine.publish(3)
    refused = machine.run("pull", REFERENCE)
    assert (1, True, {}) == (refused.code, f"is expected to be {digest}" in refused.err, pinned(machine))


def test_an_environment_of_locks(machine: Machine) -> None:
    """Its pins come from files only; what left the file is removed where --prune says so; promotion takes no file."""
    one, two = machine.publish(1), machine.publish(2, tag="2")
    both = write(machine, "both.txt", ("1", one), ("2", two))
    assert "lock import FILE --env prod" in machine.run("pins", "list", "--env", "prod").out
    why = "because " * 150
    assert (0, {"1": one, "2": two}, {}) == (
        machine.run("lock", "import", both, "--env", "prod", "--reason", why).code,
        pinned(machine, "prod"),
        pinned(machine),
    )
    history = machine.run("pins", "history", REFERENCE, "--env", "prod", "--json").json
    assert [why.strip()] == [event["reason"] for event in history]
    less = write(machine, "less.txt", ("1", one))
    kept = machine.run("lock", "import", less, "--env", "prod")
    assert (0, True, {"1": one, "2": two}) == (kept.code, "not in the file" in kept.out, pinned(machine, "prod"))
    assert 2 == machine.run("lock", "import", less, "--env", "prod", "--prune").code
    assert 0 == machine.run("lock", "import", less, "--env", "prod", "--prune", "--reason", "retired").code
    assert {"1": one} == pinned(machine, "prod")
    assert 2 == machine.run("lock", "import", less, "--prune", "--reason", "x").code
    assert 2 == machine.run("lock", "import", less, "--env", "none").code
    refused = machine.run("lock", "import", less, "--env", "rel")
    assert (1, True) == (refused.code, "by promotion only" in refused.err)
    for text in ("", "# iar.lock 1\n", "# nothing\n"):
        (machine.folder / "empty.txt").write_text(text)
        empty = machine.run("lock", "import", "empty.txt", "--env", "prod", "--prune", "--reason", "retired")
        assert (1, True) == (empty.code, "names no tag" in empty.err), empty.err
    assert {"1": one} == pinned(machine, "prod")
    refused = machine.run("lock", "import", less, "--env", "prod", "--seeds")
    assert (1, True) == (refused.code, "seeds mean nothing there" in refused.err)


def test_diff(machine: Machine) -> None:
    """Files, environments and the live upstream, with both digests; what upstream says is marked as a hint."""
    one, two = machine.publish(1), machine.publish(2, tag="2")
    machine.run("pull", REFERENCE)
    file = write(machine, "team.txt", ("1", two), ("2", two))
    compared = machine.run("diff", "env:default", file, "--json", "--exit-code")
    assert (3, [(REFERENCE, "changed", one, two), (f"{APP}:2", "added", None, two)]) == (
        compared.code,
        [tuple(each.values()) for each in compared.json["differences"]],
    )
    same = machine.run("lock", "diff", file, file, "--exit-code")
    assert (0, "Nothing differs.\n") == (same.code, same.out)
    moved = machine.publish(3)
    live = machine.run("diff", "env:default", "upstream", "--json")
    assert (0, True, [(REFERENCE, "changed", one, moved)]) == (
        live.code,
        live.json["hint"],
        [tuple(each.values()) for each in live.json["differences"]],
    )
    machine.registry.act("stop")
    silent = machine.run("diff", file, "upstream")
    assert (4, True) == (silent.code, f"{APP}:2: upstream says nothing" in silent.err)
    assert "Nothing is known to differ.\n" == machine.run("diff", write(machine, "b.txt", ("2", two)), "upstream").out
    assert 2 == machine.run("diff", "upstream", "upstream").code


def test_errors_name_file_and_line(machine: Machine) -> None:
    """A wrong file is one line on standard error."""
    (machine.folder / "bad.lock").write_text("# iar.lock 1\nnonsense\n")
    refused = machine.run("lock", "import", "bad.lock")
    assert (1, True) == (refused.code, refused.err.startswith("iarproxy: bad.lock, line 2: "))
    none = machine.run("lock", "import", "none.lock")
    assert (1, True) == (none.code, "none.lock: cannot be read" in none.err)


def test_the_lock_of_a_cluster(machine: Machine) -> None:
    """What runs, else what is pinned; the rest is told, and ends it with --strict."""
    one = machine.publish(1)
    machine.run("pull", REFERENCE)
    other = f"sha256:{'c' * 64}"
    pods = {
        "kind": "List",
        "items": [
            {
                "kind": "Pod",
                "metadata": {"name": "p"},
                "spec": {
                    "containers": [
                        {"name": "a", "image": REFERENCE},
                        {"name": "b", "image": f"{APP}:7"},
                        {"name": "c", "image": f"{APP}:8"},
                    ]
                },
                "status": {"containerStatuses": [{"name": "c", "imageID": f"{APP}@{other}"}]},
            }
        ],
    }
    (machine.folder / "tree").mkdir()
    (machine.folder / "tree" / "pods.json").write_text(json.dumps(pods))
    (machine.folder / "tree" / "README.md").write_text("no manifest")
    (machine.folder / "empty").mkdir()
    empty = machine.run("lock", "from-cluster", "empty", "-o", "cluster.lock")
    assert (1, False) == (empty.code, (machine.folder / "cluster.lock").exists())
    assert "empty: no manifests" in empty.err
    found = machine.run("lock", "from-cluster", "tree", "-o", "cluster.lock")
    assert (0, True) == (found.code, f"not resolved: {APP}:7" in found.err)
    lines = (machine.folder / "cluster.lock").read_text().splitlines()
    assert [f"{REFERENCE}@{one}", f"{APP}:8@{other}"] == [each.split(" ")[0] for each in lines if each[0] != "#"]
    strict = machine.run("lock", "from-cluster", "tree", "--strict", "--json")
    assert (1, [f"{APP}:7"]) == (strict.code, [each["reference"] for each in strict.json["unresolved"]])
