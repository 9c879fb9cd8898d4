"""Writing a set-up and taking it back: what was there before comes back, and nothing of others is lost."""

from __future__ import annotations

import json
import resource
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.cli.setup import writing
from iarproxy.cli.setup.merging import with_first, with_tables, with_value
from iarproxy.cli.setup.plan import MARK, Change, Merged, Whole
from iarproxy.cli.setup.writing import Standing
from iarproxy.errors import Refused

OURS = f"{MARK}\nserver = 1\n".encode()
MIRRORS = {"registry-mirrors": "http://127.0.0.1:5000"}
TABLE = ("plugins", "io.containerd.grpc.v1.cri", "registry")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(), json_values, max_size=5).filter(lambda each: "registry-mirrors" not in each)


def daemon_json(path: Path) -> Merged:
    return Merged(path, "", lambda data: with_first(data, path, MIRRORS))


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(each.relative_to(folder)): (each.read_bytes() if each.is_file() else b"", each.lstat().st_mode)
        for each in folder.rglob("*")
    }


def standings(steps: list[writing.Step]) -> list[Standing]:
    return [each.standing for each in steps]


# --- write, write, undo ----------------------------------------------------------------------------------------------


@given(before=st.none() | st.binary(max_size=40) | documents.map(lambda each: json.dumps(each).encode()))
def test_write_write_undo(tmp_path_factory: pytest.TempPathFactory, before: bytes | None) -> None:
    """Whatever was there: the second write has nothing to do, and undo leaves files, modes and folders as before."""
    folder = tmp_path_factory.mktemp("w")
    path = folder / "docker" / "daemon.json"
    if before is not None:
        path.parent.mkdir()
        path.write_bytes(before)
        path.chmod(0o640)
    was = tree(folder)
    changes: list[Change] = [daemon_json(path), Whole(folder / "certs.d/docker.io/hosts.toml", OURS)]
    try:
        writing.write(changes)
    except Refused:
        assert was == tree(folder)
        return
    assert [Standing.SAME] * 2 == standings(writing.write(changes))
    writing.undo([str(folder / "docker/daemon.json"), str(folder / "certs.d/*/hosts.toml")])
    assert was == tree(folder)


@given(document=documents, mirrors=st.lists(st.text(), max_size=3))
def test_daemon_json_keeps_everything_else(document: dict[str, Any], mirrors: list[str]) -> None:
    """Every key of others has its value afterwards, and ours comes first, once."""
    before = {**document, "registry-mirrors": mirrors}
    after = json.loads(with_first(json.dumps(before).encode(), Path("daemon.json"), MIRRORS))
    ours = MIRRORS["registry-mirrors"]
    assert [ours, *(each for each in mirrors if each != ours)] == after.pop("registry-mirrors")
    assert document == after


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"a": 1, "a": 2}', b'{"registry-mirrors": "x"}', b"\xff"])
def test_daemon_json_that_cannot_be_merged(data: bytes, tmp_path: Path) -> None:
    """What is no such object, or has a key twice, is refused and left alone."""
    path = tmp_path / "daemon.json"
    path.write_bytes(data)
    with pytest.raises(Refused, match="mend it first"):
        writing.write([daemon_json(path)])
    assert ["daemon.json"] == [each.name for each in tmp_path.iterdir()]


def test_daemon_json_keeps_its_indent() -> None:
    """The file looks as its owner writes it."""
    merged = with_first(b'{\n    "debug": true\n}\n', Path("daemon.json"), MIRRORS)
    assert merged.startswith(b'{\n    "debug": true,\n    "registry-mirrors"')


def test_another_wish_replaces_the_first(tmp_path: Path) -> None:
    """A second set-up starts from what was there before the first: no old mirror stays, undo goes all the way."""
    path = tmp_path / "daemon.json"
    path.write_text('{"debug":true}')
    writing.write([daemon_json(path)])
    other = {"registry-mirrors": "http://10.0.0.1:5000"}
    writing.write([Merged(path, "", lambda data: with_first(data, path, other))])
    assert {"debug": True, "registry-mirrors": ["http://10.0.0.1:5000"]} == json.loads(path.read_text())
    writing.undo([str(path)])
    assert '{"debug":true}' == path.read_text()


# --- files of others, and edited ones --------------------------------------------------------------------------------


def test_a_file_of_others(tmp_path: Path) -> None:
    """It is not replaced unless that is asked for; then it is kept, and nothing else of the plan is written before."""
    path, other = tmp_path / "hosts.toml", tmp_path / "more" / "hosts.toml"
    path.write_bytes(b"theirs")
    with pytest.raises(Refused, match="others wrote it"):
        writing.write([Whole(other, OURS), Whole(path, OURS)])
    assert (b"theirs", False) == (path.read_bytes(), other.parent.exists())
    writing.write([Whole(path, OURS)], overwrite=True)
    kept = writing.backup_of(path)
    assert kept is not None
    assert (OURS, b"theirs") == (path.read_bytes(), kept.read_bytes())
    assert [(path, Standing.RESTORED)] == writing.undo([str(path)])
    assert (b"theirs", None) == (path.read_bytes(), writing.backup_of(path))


def test_an_edited_file(tmp_path: Path) -> None:
    """What somebody edited since is neither written nor undone; taken over, undo brings the edited one back."""
    path = tmp_path / "hosts.toml"
    writing.write([Whole(path, OURS)])
    path.write_bytes(edited := OURS + b"# mine\n")
    with pytest.raises(Refused, match="edited since"):
        writing.write([Whole(path, OURS)])
    assert [(path, Standing.EDITED)] == writing.undo([str(path)])
    assert edited == path.read_bytes()
    writing.write([Whole(path, OURS)], overwrite=True)
    assert [(path, Standing.RESTORED)] == writing.undo([str(path)])
    assert edited == path.read_bytes()


def test_an_edit_that_keeps_ours(tmp_path: Path) -> None:
    """An edited daemon.json that still says what we want needs nothing."""
    path = tmp_path / "daemon.json"
    writing.write([daemon_json(path)])
    path.write_text(json.dumps({"debug": True, "registry-mirrors": ["http://127.0.0.1:5000"]}))
    assert [Standing.SAME] == standings(writing.write([daemon_json(path)]))


def test_a_lost_copy(tmp_path: Path) -> None:
    """Without the copy of what was there before, nothing is merged from thin air and nothing is undone."""
    path = tmp_path / "daemon.json"
    path.write_text('{"debug": true}')
    writing.write([daemon_json(path)])
    (tmp_path / "daemon.json.before-iarproxy").unlink()
    assert [Standing.SAME] == standings(writing.write([daemon_json(path)]))
    with pytest.raises(Refused, match="nothing was undone"):
        writing.undo([str(path)])
    assert "debug" in path.read_text()


def test_a_crash_between_the_steps(tmp_path: Path) -> None:
    """A record without the change it speaks of: a write goes on, an undo cleans up."""
    path = tmp_path / "hosts.toml"
    path.write_bytes(MARK.encode())
    writing.write([Whole(path, OURS)])
    path.write_bytes(MARK.encode())  # as if the last step had not happened
    assert [Standing.CHANGED] == standings(writing.write([Whole(path, OURS)]))
    path.write_bytes(MARK.encode())
    writing.undo([str(path)])
    assert {"hosts.toml"} == {each.name for each in tmp_path.iterdir()}


def test_links_modes_and_new_folders(tmp_path: Path) -> None:
    """A link stays one, what it points to keeps its mode, and folders that we made go unless somebody uses them."""
    real, link = tmp_path / "real.json", tmp_path / "etc" / "daemon.json"
    real.write_text("{}")
    real.chmod(0o600)
    link.parent.mkdir()
    link.symlink_to(real)
    hosts = tmp_path / "certs.d/docker.io/hosts.toml"
    writing.write([daemon_json(link), Whole(hosts, OURS)])
    assert (True, 0o100600, 0o100644) == (link.is_symlink(), real.stat().st_mode, hosts.stat().st_mode)
    (tmp_path / "certs.d/ca.pem").touch()
    writing.undo([str(link), str(tmp_path / "certs.d/*/hosts.toml")])
    assert (True, "{}") == (link.is_symlink(), real.read_text())
    assert ["ca.pem"] == [each.name for each in (tmp_path / "certs.d").iterdir()]


def test_a_damaged_record(tmp_path: Path) -> None:
    """A record that cannot be read is said, with what to do."""
    path = tmp_path / "hosts.toml"
    writing.write([Whole(path, OURS)])
    (tmp_path / ".hosts.toml.iarproxy").write_text('{"before": 1}')
    with pytest.raises(Refused, match="unreadable; remove it"):
        writing.undo([str(path)])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is one line that names the file."""
    (tmp_path / "etc").touch()
    with pytest.raises(Refused, match=r"etc/hosts\.toml: "):
        writing.write([Whole(tmp_path / "etc/hosts.toml", OURS)])


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """A write that fails leaves no folder: containerd would find it in front of `_default`, and pass by the mirror."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for taken in (0, 150):  # bytes: the record does not fit, or only the file
        resource.setrlimit(resource.RLIMIT_FSIZE, (taken, hard))
        try:
            with pytest.raises(Refused, match=r"hosts\.toml: File too large"):
                writing.write([Whole(tmp_path / "certs.d/docker.io/hosts.toml", OURS + b"#" * 1000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [] == list(tmp_path.iterdir())


# --- TOML of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before",
    [
        "",
        "version = 2\n",
        'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "x" # mine\n',
        'version = 2\n[plugins]\n  [plugins."io.containerd.grpc.v1.cri".registry]\n    # mine\n[debug]\nlevel = "info"',
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]",
        'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.headers]\na = ["b"]\n',
    ],
)
def test_a_value_in_toml(before: str) -> None:
    """The value is there, nothing else changed, every line of others is still there, and again nothing is to do."""
    after = with_value(before.encode(), Path("config.toml"), TABLE, "config_path", "/c").decode()
    was, now = tomllib.loads(before), tomllib.loads(after)
    assert "/c" == now["plugins"][TABLE[1]]["registry"].pop("config_path")
    was.setdefault("plugins", {}).setdefault(TABLE[1], {}).setdefault("registry", {})
    assert was == now
    assert [] == [line for line in before.splitlines() if line not in after.splitlines()]
    assert after == with_value(after.encode(), Path("config.toml"), TABLE, "config_path", "/c").decode()


@pytest.mark.parametrize(
    "before",
    [
        'plugins = {"io.containerd.grpc.v1.cri" = {sandbox_image = "x"}}\n',  # an inline table takes nothing more
        "[[plugins]]\n",
    ],
)
def test_toml_that_takes_no_value(before: str) -> None:
    """A spelling that cannot be extended is refused, and the person told what to write."""
    with pytest.raises(Refused, match="by hand"):
        with_value(before.encode(), Path("config.toml"), TABLE, "config_path", "/c")


def test_tables_in_toml() -> None:
    """Blocks are put at the end; one that is there with other content is refused, one that says it all is left."""
    block = '[registry."docker.io"]\nmirrors = ["a"]\n'
    path = Path("buildkitd.toml")
    assert b'debug = true\n\n[registry."docker.io"]\nmirrors = ["a"]\n' == with_tables(b"debug = true\n", path, block)
    present = b'[registry]\n[registry."docker.io"]\nmirrors = ["a"] # mine\n'
    assert present == with_tables(present, path, block)
    with pytest.raises(Refused, match="by hand"):
        with_tables(b'[registry."docker.io"]\nmirrors = ["b"]\n', path, block)
    with pytest.raises(Refused, match="not TOML"):
        with_tables(b"= 1", path, block)
