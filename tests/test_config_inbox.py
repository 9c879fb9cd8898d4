"""`[inbox]` and `[server] offline`: what they may say, and the one line for what they may not."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from checked import checked
from iarproxy import config
from iarproxy.errors import ConfigError

INBOX = '[inbox]\npath = "/in"\ntrust = ["/a.pub", "/b.pub"]\n'
REFUSED = {
    '[inbox]\npath = "/in"': "inbox.trust",
    '[inbox]\npath = "/in"\ntrust = []': "inbox.trust",
    '[inbox]\npath = "in"\ntrust = ["/a.pub"]': "path must be a whole path",
    '[inbox]\npath = "/in"\ntrust = ["a.pub"]': "trust must be a whole path",
    f"{INBOX}threshold = 3": "threshold is 3 of 2 signers in trust",
    f"{INBOX}threshold = 0": "inbox.threshold",
    f'{INBOX}receipts = "/in"': "receipts is the watched folder itself",
    f'{INBOX}environment = "prod"': "inbox.environment names 'prod', which is none",
    f'{INBOX}prefer = "me"': "inbox.prefer",
    f'{INBOX}recipts = "/out"': "receipts",
}


def _parsed(text: str) -> config.Config:
    return config.parse(tomllib.loads(f'[store]\npath = "/store"\n{text}'), None)


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    """One line names the key and what to write."""
    with pytest.raises(ConfigError) as refused:
        _parsed(text)
    assert REFUSED[text] in str(refused.value)


def test_accepted() -> None:
    """What is left out has its default; an inbox is offered where it is written, and only there."""
    found = _parsed(INBOX).inbox
    assert found is not None
    assert (Path("/in"), (Path("/a.pub"), Path("/b.pub")), None) == (found.path, found.trust, found.threshold)
    assert ("default", None, None, 10.0) == (
        found.environment,
        found.prefer,
        found.receipts,
        found.settle.total_seconds(),
    )
    assert None is _parsed("").inbox


def test_offline_goes_with_everything() -> None:
    """What only an upstream could use, such as credentials, certificates and the drift watch, may stand there."""
    found = _parsed(
        '[server]\noffline = true\n[drift]\ninterval = "1h"\n'
        '[upstreams."ghcr.io"]\nusername = "robot"\npassword_file = "/none"\nca_file = "/none"\n'
    )
    assert found.server.offline
    assert not _parsed("").server.offline


def test_it_is_told(tmp_path: Path) -> None:
    """`check-config` says what is watched, whose bundles are taken, and that nobody is asked."""
    file = tmp_path / "iarproxy.toml"
    file.write_text(f'[server]\noffline = true\n[store]\npath = "{tmp_path}/store"\n[upstreams."ghcr.io"]\n{INBOX}')
    told = checked(file).out
    assert "  inbox       /in, signed by /a.pub, /b.pub\n" in told
    assert "ghcr.io at https://ghcr.io, never asked: offline\n" in told
