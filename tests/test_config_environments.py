"""`[environments.NAME]`: what it may say, and the one line for each thing that would lead somewhere else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from checked import checked
from iarproxy import config
from iarproxy.cli.wiring import routes_of
from iarproxy.errors import ConfigError
from iarproxy.trust.environments import Environment, PinsFrom

PROD = '[environments.prod]\npins_from = "promotion"\n'
STAGING = '[environments.staging]\npins_from = "first-fetch"\n'
UPSTREAM = '[upstreams."ghcr.io"]\n'
REFUSED = {
    f'{PROD}listen = ["127.0.0.1:5000"]': "environments.prod.listen names 127.0.0.1:5000, which server.listen has",
    f'{PROD}listen = ["[::1]:5000"]': "which server.listen has",
    f'{PROD}listen = ["127.0.0.1:5001"]': "which admin.listen has",
    f'{PROD}listen = ["0.0.0.0:5000"]': "names 0.0.0.0:5000, which server.listen has",
    f'{PROD}listen = ["[::]:5000"]': "names [::]:5000, which server.listen has",
    f'{PROD}listen = ["localhost:5000"]': "names localhost:5000, which server.listen has",
    f'{PROD}listen = ["0.0.0.0:5010"]\n{STAGING}listen = ["10.0.0.5:5010"]': "which environments.prod.listen has too",
    f'[admin]\nprobes = "127.0.0.1:5002"\n{PROD}listen = ["127.0.0.1:5002"]': "which admin.probes has",
    f'{PROD}listen = ["127.0.0.1:5010", "127.0.0.1:5010"]': "which environments.prod.listen has too",
    f'{PROD}listen = ["127.0.0.1:5010"]\n{STAGING}listen = ["127.0.0.1:5010"]': "environments.prod.listen has too",
    f'{PROD}hosts = ["Prod.example."]\n{STAGING}hosts = ["prod.example"]': "environments.prod.hosts has too",
    f'{PROD}path_prefix = "p"\n{STAGING}path_prefix = "p"': "environments.prod.path_prefix has too",
    f'[server.bind]\n"a.example" = "ghcr.io"\n{PROD}hosts = ["a.example:5000"]': "which [server.bind] binds",
    f'{PROD}hosts = ["ghcr.io"]': "which is an upstream's name; choose another one",
    f'{PROD}path_prefix = "ghcr.io"': "environments.prod.path_prefix names ghcr.io, which is an upstream's name",
    f'{PROD}hosts = ["localhost:5000"]': "this machine's own address",
    f'[server]\nlisten = ["mirror.lan:5000"]\n{PROD}hosts = ["mirror.lan"]': "own address (server.listen)",
    f'{PROD}hosts = ["10.0.0.5"]\n{STAGING}listen = ["10.0.0.5:5010"]': "own address (environments.staging.listen)",
    PROD: "environments.prod is served nowhere; write listen, hosts or path_prefix",
    '[environments.prod]\npath_prefix = "p"': "environments.prod.pins_from: missing; add it",
    '[environments.prod]\npath_prefix = "p"\npins_from = "lok"': "environments.prod.pins_from: Input should be",
    '[environments.default]\npath_prefix = "p"\npins_from = "lock"': "environments.default: this is what [server]",
    '[environments.Prod]\npath_prefix = "p"\npins_from = "lock"': "environments.'Prod': a name has",
    f'{PROD}path_prefix = "p"\npromote_from = "stagin"': "names 'stagin', which is none; there are: default",
    f'{PROD}path_prefix = "p"\npromote_from = "prod"': "environments.prod.promote_from names prod itself",
    f'{PROD}path_prefix = "a/b"': "environments.prod.path_prefix: not the first part of a path: 'a/b'",
    f'{PROD}path_prefix = "P"': "not the first part of a path",
    f'{PROD}hosts = ["http://prod.example"]': "environments.prod.hosts.0: not a host name",
    f'{PROD}listen = ["5010"]': "environments.prod.listen.0: not an address",
    '[environments.prod]\npath_prefix = "p"\npins_form = "lock"': "pins_form: unknown key; did you mean pins_from?",
    f'{PROD}host = ["prod.example"]': "environments.prod.host: unknown key; did you mean hosts?",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str, tmp_path: Path) -> None:
    """Each is one line that names file, key and remedy."""
    file = tmp_path / "iarproxy.toml"
    file.write_text(UPSTREAM + text)
    with pytest.raises(ConfigError) as error:
        config.load(file, {})
    assert str(file) in str(error.value)
    assert REFUSED[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_refused_is_an_open_listener_of_an_upstream_with_credentials() -> None:
    """An environment's listener shows what credentials open, as any other one does."""
    upstream = {"username": "u", "password_file": "/p"}
    prod = {"pins_from": "lock", "listen": ["0.0.0.0:5010"]}
    with pytest.raises(ConfigError, match=r"credentials, and anybody .* listener 0\.0\.0\.0:5010; listen on 127"):
        config.parse({"upstreams": {"ghcr.io": upstream}, "environments": {"prod": prod}}, None)


def test_refused_is_an_upstream_that_is_an_environments_listener() -> None:
    """Each request would ask itself."""
    prod = {"pins_from": "lock", "listen": ["127.0.0.1:5010"]}
    upstreams = {"reg.lan": {"url": "http://127.0.0.1:5010"}}
    with pytest.raises(ConfigError, match="which is this server itself"):
        config.parse({"upstreams": upstreams, "environments": {"prod": prod}}, None)


ALL = f"""
{UPSTREAM}
{PROD}listen = ["127.0.0.1:5010", "unix:/run/prod.sock"]
hosts = ["Prod.Mirror.example", "prod.mirror.example:8443"]
path_prefix = "prod"
promote_from = "staging"
{STAGING}path_prefix = "staging"
"""


def test_what_the_others_get() -> None:
    """The routes know each way to an environment; the mirror gets names and where pins come from."""
    found = config.parse(tomllib.loads(ALL), None)
    assert [Environment("prod", PinsFrom.PROMOTION, "staging"), Environment("staging")] == [
        section.named(name) for name, section in found.environments.items()
    ]
    routes = routes_of(found)
    ways = ("127.0.0.1:5010", "unix:/run/prod.sock", "prod.mirror.example", "prod.mirror.example:8443")
    assert dict.fromkeys(ways, "prod") == routes.environments
    assert {"prod": "prod", "staging": "staging"} == routes.prefixes


def test_check_config_prints_them(tmp_path: Path) -> None:
    """Where each is served, and what gives it its pins; as JSON every key."""
    file = tmp_path / "iarproxy.toml"
    file.write_text(ALL)
    told = checked(file).out
    ways = "127.0.0.1:5010, unix:/run/prod.sock, prod.mirror.example, prod.mirror.example:8443, /v2/prod/"
    assert f"environment prod on {ways}; pins only by promotion, from staging unless told" in " ".join(told.split())
    assert "environment staging on /v2/staging/; pins from first fetches" in told
    as_json = checked(file, "--json").json
    assert as_json["environments"]["prod"]["pins_from"] == "promotion"
