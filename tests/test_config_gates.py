"""`[environments.NAME.gates]`: what it may say, and the one line for each thing that would let pass by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from iarproxy import config
from iarproxy.errors import ConfigError

PROD = '[environments.prod]\npath_prefix = "prod"\npins_from = "promotion"\n[environments.prod.gates]\n'
REFUSED = {
    'command = ["gate"]': "environments.prod.gates: command begins with the whole path of a program",
    'command = ["/bin/gate", "a\\u0000b"]': "command holds a null character",
    'command = "/bin/gate --strict"': "environments.prod.gates.command: ",
    'policy_url = "opa"': "policy_url is no address",
    'policy_url = "ftp://opa.example.com/x"': "policy_url is no address",
    'policy_url = "https://ann:secret@opa.example.com/x"': "policy_url takes no user, password or fragment",
    'policy_token_file = "/x"': "policy_token_file and policy_ca_file need policy_url",
    'policy_url = "http://opa.example.com/x"\npolicy_token_file = "/x"': "the token would cross the network",
    'min_age = "3"': "not a duration",
    'timeout = "0s"': "environments.prod.gates.timeout: ",
    'timeout = "1h"': "environments.prod.gates.timeout: ",
    'min_ages = "3d"': "environments.prod.gates.min_ages: unknown key; did you mean min_age?",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str, tmp_path: Path) -> None:
    """Each is one line that names the key, and tells no secret."""
    file = tmp_path / "iarproxy.toml"
    file.write_text(PROD + text)
    with pytest.raises(ConfigError) as error:
        config.load(file, {})
    assert REFUSED[text] in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pins_from", ["first-fetch", "lock"])
def test_gates_that_nobody_would_pass_through(pins_from: str, tmp_path: Path) -> None:
    """An environment that takes names past its gates must not look guarded."""
    file = tmp_path / "iarproxy.toml"
    file.write_text(PROD.replace("promotion", pins_from) + 'min_age = "1h"')
    with pytest.raises(ConfigError, match="lets names in past them"):
        config.load(file, {})


def test_the_address_may_be_a_secret(tmp_path: Path) -> None:
    """Of the policy's address only the origin is printed."""
    file = tmp_path / "iarproxy.toml"
    file.write_text(PROD + 'policy_url = "https://opa.example.com/v1/data/t0ken"')
    loaded = config.load(file, {})
    assert "t0ken" not in loaded.model_dump_json()
    assert "https://opa.example.com" in loaded.model_dump_json()
