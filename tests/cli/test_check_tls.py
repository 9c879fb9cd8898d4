"""What `check-config` and the first line of `serve` say of the files of [server.tls]."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from certificates import CertificateAuthority
from iarproxy.cli.serve import serve_settings
from iarproxy.cli.wiring import routes_of
from iarproxy.config import load
from iarproxy.errors import ConfigError


def check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iarproxy", "check-config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration whose certificate is good."""
    written = tmp_path / "iarproxy.toml"
    CertificateAuthority(tmp_path).issue(days=3000).write(tmp_path / "c", tmp_path / "k")
    written.write_text(
        f'[store]\npath = "{tmp_path}/store"\n[server]\nlisten = []\n'
        f'[server.tls]\nlisten = ["127.0.0.1:5443"]\ncert_file = "{tmp_path}/c"\nkey_file = "{tmp_path}/k"\n'
    )
    return written


def test_what_it_means_is_said(file: Path) -> None:
    """Where TLS is spoken, until when the certificate is good, and what is unwise."""
    (file.parent / "k").chmod(0o644)
    done = check(file)
    assert 0 == done.returncode
    assert "TLS on      127.0.0.1:5443; certificate until 20" in done.stdout
    assert "is open to other users (mode 0644)" in done.stdout.replace("\n", " ")


def test_a_broken_pair_is_one_line(file: Path) -> None:
    """File, key, remedy; the same for `serve`."""
    (file.parent / "k").write_text("no key")
    line = f"{file}: server.tls.key_file: {file.parent}/k holds no PEM private key; give the key's file"
    done = check(file)
    assert (1, "") == (done.returncode, done.stdout)
    assert line in done.stderr
    with pytest.raises(ConfigError, match="holds no PEM private key"):
        serve_settings(load(file, {}), None)


def test_both_loopback_addresses_by_default(file: Path) -> None:
    """Item 75: where `listen` is not written, [::1] is listened on too, if the machine has it."""
    file.write_text(file.read_text().replace("listen = []\n", ""))
    settings = serve_settings(load(file, {}), None)
    assert (("127.0.0.1:5000", "[::1]:5000"), ("[::1]:5000",)) == (settings.listen, settings.optional)
    assert ("127.0.0.1:5443",) == settings.tls_listen


def test_our_own_addresses_are_known(file: Path) -> None:
    """A client that names one of our TLS addresses in `ns` says nothing by it."""
    assert {"127.0.0.1:5443", "localhost:5443"} <= routes_of(load(file, {})).own
