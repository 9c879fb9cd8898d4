"""The configuration: every mistake gets one line that names file, key and remedy; nothing is ignored."""

from __future__ import annotations

import pwd
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy import config
from iarproxy.config import Config
from iarproxy.errors import ConfigError

FILE = Path("/etc/iarproxy/iarproxy.toml")

BROKEN = {
    # what is written: what the one line must name
    '[server]\nlisen = ["127.0.0.1:5000"]': "server.lisen: unknown key; did you mean listen?",
    '[serv]\nlisten = ["127.0.0.1:5000"]': "serv: unknown key; did you mean server?",
    "[zebra]\nx = 1": "zebra: unknown key; known are",
    'listen = "127.0.0.1:5000"': "listen: unknown key",
    '[server]\nlisten = "127.0.0.1:5000"': "server.listen: not a list",
    "[server]\nlisten = []": "server.listen: empty",
    "[server]\nlisten = []\n[server.tls]\nlisten = []": "server.tls.listen: empty",
    '[server.tls]\nlisten = ["127.0.0.1:5443"]\nkey_file = "/k"': "server.tls.cert_file: missing",
    '[server.tls]\nlisten = ["127.0.0.1:5443"]\ncert_file = "/c"\nkey_file = "/k"\nclient_certificates = "no"': (
        "server.tls.client_certificates"
    ),
    '[server.tls]\nlisten = ["127.0.0.1:5443"]\ncert_file = "/c"\nkey_file = "/k"\nclient_certificates = "optional"': (
        "client_certificates needs client_ca_file"
    ),
    '[server.tls]\nlisten = ["127.0.0.1:5000"]\ncert_file = "/c"\nkey_file = "/k"': "127.0.0.1:5000 twice",
    '[server]\nlisten = ["5000"]': "server.listen.0: not an address: '5000'",
    '[server]\nlisten = ["127.0.0.1:99999"]': "server.listen.0: not an address",
    '[server]\nlisten = ["unix:relative"]': "server.listen.0: not an address",
    '[server]\nworkers = "many"': "server.workers: not a whole number",
    "[server]\nworkers = -1": "server.workers",
    '[server]\ngraceful_timeout = "soon"': "server.graceful_timeout: not a duration: 'soon'",
    "[server]\ngraceful_timeout = 30": "server.graceful_timeout: not a duration: '30'",
    '[server]\naccess_log = "maybe"': "server.access_log: neither true nor false",
    '[server]\ndefault_upstream = "quay.example"': "server.default_upstream names 'quay.example'",
    '[server.bind]\n"127.0.0.1:6000" = "nowhere.example"': "server.bind",
    '[admin]\nlisten = "127.0.0.1:5000"': "admin.listen",
    '[admin]\nlisten = "0.0.0.0:5001"': "admin.listen is open to the network",
    "store = 3": "store: not a section",
    '[store]\nmax_size = "50 Gib"': "store.max_size: not a size",
    "[store]\nmax_size = 0": "store.max_size: not a size",
    "[store]\npath = 7": "store.path",
    '[ledger]\nurl = "postgresql://db/iarproxy"': "ledger.url must be",
    '[ledger]\nurl = "sqlite:///relative.db"': "ledger.url must be",
    '[pins]\nplatforms = ["amd64"]': "pins.platforms.0: not a platform",
    '[drift]\ninterval = "6 hours"': "drift.interval: not a duration",
    "upstreams = 3": "upstreams: not a section",
    "[upstreams]": "upstreams: empty",
    '[upstreams."docker.io"]\n[upstreams."index.docker.io"]': 'upstreams."index.docker.io" is docker.io again',
    '[upstreams."not a host"]': "not a registry name: 'not a host'",
    '[upstreams."x.example"]\nurl = "ftp://x.example"': 'upstreams."x.example": url',
    '[upstreams."x.example"]\nurl = "https://x.example/v2/"': "takes only scheme, host and port",
    '[upstreams."x.example"]\nurl = "https://u:p@x.example"': "credentials go into username and password_file",
    '[upstreams."x.example"]\nusername = "u"': "username and password_file go together",
    '[upstreams."x.example"]\npassword = "p"': "did you mean password_file?",
    '[upstreams."x.example"]\nurl = "http://x.example"\nusername = "u"\npassword_file = "/p"': "in the clear",
    '[upstreams."x.example"]\nauth_file = "/a"\ncredential_helper = "pass"': "write one of username with password_file",
    '[upstreams."x.example"]\nusername = "a:b"\npassword_file = "/p"': "username cannot hold a colon",
    '[upstreams."x.example"]\ncredential_helper = "../evil"': "credential_helper is the NAME of a program",
    '[upstreams."x.example"]\ncredential_helper = "-x"': "credential_helper is the NAME of a program",
    '[upstreams."x.example"]\nurl = "http://x.example"\nauth_file = "/a"': "in the clear",
    '[upstreams."x.example"]\nurl = "http://x.example"\ncredential_helper = "pass"': "in the clear",
    '[server]\nlisten = ["0.0.0.0:5000"]\n[upstreams."x.example"]\nclient_cert_file = "/c"': "has credentials",
    '[server]\nlisten = ["0.0.0.0:5000"]\n[upstreams."x.example"]\nauth_file = "/a"': "has credentials",
    '[server]\nlisten = ["0.0.0.0:5000"]\n[upstreams."x.example"]\ncredential_helper = "pass"': "has credentials",
    '[server]\nlisten = ["0.0.0.0:5000"]\n[upstreams."x.example"]\nusername = "u"\npassword_file = "/p"': (
        'upstreams."x.example" has credentials'
    ),
    '[server.tls]\nlisten = ["0.0.0.0:5443"]\ncert_file = "/c"\nkey_file = "/k"\nclient_ca_file = "/a"\n'
    '[upstreams."x.example"]\nusername = "u"\npassword_file = "/p"': 'upstreams."x.example" has credentials',
    "[[tags]]\nmode = 'pin'": "tags.0.match: missing",
    "[[tags]]\nmatch = 'a b'": "tags.0.match: not a pattern: 'a b'",
    "[[tags]]\nmatch = '**'\nmode = 'pinn'": "tags.0.mode",
    "[[tags]]\nmatch = '**'\nttl = '1 hour'": "tags.0.ttl: not a duration",
    "[[tags]]\nmatch = '**'\non_drift = 'ignore'": "tags.0.on_drift",
    "[[tags]]\nmatch = '**'\nadmit = 'none'": "tags.0.admit",
    "[[tags]]\nmatch = '**'\ncool_down = 'soon'": "tags.0.cool_down: not a duration",
    "[[tags]]\nmatch = '**'\nmode = 'follow'\ncool_down = '1h'": "are about first pins",
    "source = '/x'": "source: unknown key",
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_mistake_gets_one_line_with_file_key_and_remedy(text: str, expected: str) -> None:
    """Each mistake is one line that starts with the file and names the key."""
    with pytest.raises(ConfigError) as caught:
        config.parse(tomllib.loads(text), FILE)
    line = str(caught.value)
    assert line.startswith(f"{FILE}: ")
    assert expected in line
    assert "\n" not in line


def _keys(model: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        found += _keys(inner, (*prefix, name)) if hasattr(inner, "model_fields") else [(*prefix, name)]
    return found


@given(st.sampled_from([key for key in _keys(Config) if key != ("source",)]), st.data())
def test_a_mutated_key_is_never_ignored(key: tuple[str, ...], data: st.DataObject) -> None:
    """A key with one character changed is refused, whatever it was."""
    *sections, name = key
    position = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.characters(min_codepoint=97, max_codepoint=122))
    wrong = name[:position] + letter + name[position + 1 :]
    if (*sections, wrong) in _keys(Config):
        return
    document: dict[str, Any] = {wrong: "x"}
    for section in reversed(sections):
        document = {section: document}
    with pytest.raises(ConfigError):
        config.parse(document, FILE)


def test_the_defaults_are_the_contract() -> None:
    """With no file: loopback only, the four usual upstreams, everything pinned."""
    settings = config.parse({}, None)
    assert ("127.0.0.1:5000",) == settings.server.listen
    assert ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"] == sorted(settings.upstreams)
    assert ("https://registry-1.docker.io", "docker.io") == (
        settings.upstreams["docker.io"].url,
        settings.default_upstream,
    )
    assert () == settings.rules


def test_tls_alone_is_enough() -> None:
    """With TLS the plain listener may be left out; where it is not written, both loopback addresses are meant."""
    text = '[server]\nlisten = []\n[server.tls]\nlisten = ["127.0.0.1:5443"]\ncert_file = "/c"\nkey_file = "/k"'
    settings = config.parse(tomllib.loads(text), FILE).server
    assert (("127.0.0.1:5443",), ()) == (settings.every_listen, settings.optional_listen)
    assert ("[::1]:5000",) == config.parse({}, None).server.optional_listen


def test_without_a_home_the_store_needs_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without HOME and without an entry in the password file is told to write `store.path`."""

    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(ConfigError, match=r"store\.path: this user has no home"):
        config.load(None, {})
    assert Path("/srv/x") == config.parse(tomllib.loads('[store]\npath = "/srv/x"'), FILE).store.path


def test_a_file_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/` is the home folder of the user that serves; other paths are what they are."""
    monkeypatch.setenv("HOME", "/home/me")
    text = '[upstreams."x.example"]\nauth_file = "~/.docker/config.json"\n[upstreams."y.example"]\nauth_file = "/a/~/b"'
    found = config.parse(tomllib.loads(text), FILE).upstreams
    expected = [Path("/home/me/.docker/config.json"), Path("/a/~/b")]
    assert expected == [each.auth_file for each in found.values()]


def test_a_file_closes_the_list() -> None:
    """With a file only the upstreams that it writes exist, and the default is docker.io only if it is one of them."""
    settings = config.parse(tomllib.loads('[upstreams."R.Example.com:443"]'), FILE)
    assert {"r.example.com": "https://r.example.com"} == {n: u.url for n, u in settings.upstreams.items()}
    assert settings.default_upstream is None


def test_values_are_read_with_their_units() -> None:
    """Sizes and durations mean what they say."""
    text = '[store]\nmax_size = "1.5GiB"\n[drift]\ninterval = "90m"\n[server]\ngraceful_timeout = "250ms"'
    settings = config.parse(tomllib.loads(text), FILE)
    assert (1_610_612_736, timedelta(minutes=90), timedelta(milliseconds=250)) == (
        settings.store.max_size,
        settings.drift.interval,
        settings.server.graceful_timeout,
    )


def test_credentials_need_a_closed_listener_or_consent() -> None:
    """`anonymous_read = true` is the consent that an open listener needs (invariant 10)."""
    text = '[server]\nlisten = ["0.0.0.0:5000"]\n[upstreams."x.example"]\nusername = "u"\npassword_file = "/p"\n'
    assert config.parse(tomllib.loads(text + "anonymous_read = true"), FILE).upstreams["x.example"].has_credentials


def test_the_file_is_found_in_order(tmp_path: Path) -> None:
    """`--config` wins over IARPROXY_CONFIG; a file that was named must exist."""
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("")
    second.write_text("")
    assert first == config.find(first, {"IARPROXY_CONFIG": str(second)})
    assert second == config.find(None, {"IARPROXY_CONFIG": str(second)})
    with pytest.raises(ConfigError, match="no such file"):
        config.find(tmp_path / "missing.toml", {})


def test_bytes_that_are_no_toml_are_one_line(tmp_path: Path) -> None:
    """A syntax error and a wrong encoding name the file and where."""
    file = tmp_path / "iarproxy.toml"
    for content in (b"[server\n", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=str(file)):
            config.load(file, {})


def test_the_journal_key_lies_beside_the_ledger() -> None:
    """Unless a file is named; paths of the journal are whole."""
    document = tomllib.loads('[store]\npath = "/store"\n[upstreams."x.example"]\n')
    assert Path("/store/journal.key") == config.parse(document, FILE).journal_key
    named = {**document, "journal": {"key_file": "/keys/one"}}
    assert Path("/keys/one") == config.parse(named, FILE).journal_key
    for key in ("key_file", "checkpoint_file"):
        with pytest.raises(ConfigError, match=f"{key} must be a whole path"):
            config.parse({**document, "journal": {key: "relative"}}, FILE)
