"""Certificates that we show to an upstream, and what is told of files that cannot be used (U32)."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from certificates import CertificateAuthority
from dialing import NAME, dialing
from iarproxy.errors import ConfigError, UpstreamUnavailable
from iarproxy.oci import Tag
from iarproxy.upstream.certificates import Certificates, Files
from images import small_image
from registry import FakeRegistry
from server_certificates import serving_with


@pytest.mark.parametrize("together", [True, False], ids=["one file", "two files"])
async def test_a_certificate_is_shown(tmp_path: Path, together: bool) -> None:  # noqa: FBT001  # a column
    """With the certificate of its authority the registry answers; the key may lie in the same file."""
    authority = CertificateAuthority(tmp_path)
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    authority.issue("me", hosts=()).write(certificate, key)
    files: dict[str, Any] = {"client_cert_file": certificate, "client_key_file": key}
    if together:
        certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
        del files["client_key_file"]
    tls = serving_with(authority, tmp_path, wants=authority.path)
    async with FakeRegistry(tls=tls) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        async with dialing(registry, ca_file=authority.path, **files) as upstream:
            assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw
        async with dialing(registry, ca_file=authority.path) as upstream:
            with pytest.raises(UpstreamUnavailable):
                await upstream.manifest("a/b", Tag("1"))


async def test_it_is_shown_to_its_own_origin_only(tmp_path: Path) -> None:
    """For any other host, such as a storage host after a redirect, there is a context without it."""
    authority = CertificateAuthority(tmp_path)
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    authority.issue("me", hosts=()).write(certificate, key)
    certificates = Certificates(Files("registry.example.com", authority.path, certificate, key))
    own, others = await certificates.context(home=True), await certificates.context(home=False)
    shown = {}
    wanting = serving_with(authority, tmp_path)
    wanting.load_verify_locations(authority.path)
    wanting.verify_mode = ssl.CERT_OPTIONAL

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        shown[writer.get_extra_info("peername")[1]] = bool(writer.get_extra_info("peercert"))
        writer.close()

    server = await asyncio.start_server(look, "127.0.0.1", 0, ssl=wanting)
    found = []
    for context in (own, others):
        reader, writer = await asyncio.open_connection(
            "localhost", server.sockets[0].getsockname()[1], ssl=context, server_hostname="localhost"
        )
        port = writer.get_extra_info("sockname")[1]
        writer.write(b"\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        found.append(shown[port])
    server.close()
    await server.wait_closed()
    assert [True, False] == found


async def test_a_renewed_certificate_is_found(tmp_path: Path) -> None:
    """A changed file makes a new context; one that cannot be used leaves the old one in use."""
    authority = CertificateAuthority(tmp_path)
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    authority.issue("me", hosts=()).write(certificate, key)
    certificates = Certificates(Files("registry.example.com", None, certificate, key), look_again=0.0)
    first = await certificates.context(home=True)
    assert first is await certificates.context(home=True)
    authority.issue("me again", hosts=()).write(certificate, key)
    second = await certificates.context(home=True)
    certificate.write_text("half of a fi")
    assert first is not second is await certificates.context(home=True)
    certificate.unlink()
    assert second is await certificates.context(home=True)
    authority.issue("me at last", hosts=()).write(certificate, key)
    assert second is not await certificates.context(home=True)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("missing certificate", r"client_cert_file .*client\.pem cannot be used: No such file.*check its path"),
        ("missing key", r"client_key_file .*client\.key cannot be used: No such file.*check its path"),
        ("no certificate", r"client_cert_file .* cannot be used: no PEM certificate .*check both files"),
        ("no key in it", r"client_cert_file .* cannot be used: no PEM certificate .*write client_key_file"),
        ("another's key", r"client_cert_file .* cannot be used: its key belongs to another certificate"),
        ("an encrypted key", r"client_cert_file .* cannot be used: .*not encrypted"),
        ("a folder", r"client_cert_file .* cannot be used: Is a directory"),
    ],
)
async def test_files_that_cannot_be_used(tmp_path: Path, setting: str, told: str) -> None:
    """One line, before anything starts, that names section, key and remedy; nobody is asked for a passphrase."""
    authority = CertificateAuthority(tmp_path)
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    pair = authority.issue("me", hosts=(), passphrase="secret" if setting == "an encrypted key" else "")
    pair.write(certificate, key)
    files: dict[str, Any] = {"client_cert_file": certificate, "client_key_file": key}
    match setting:
        case "missing certificate":
            certificate.unlink()
        case "missing key":
            key.unlink()
        case "no certificate":
            certificate.write_text("-----BEGIN CERTIFICATE-----\nnone\n")
        case "no key in it":
            del files["client_key_file"]
        case "another's key":
            key.write_bytes(authority.issue("other").key)
        case "a folder":
            certificate.unlink()
            certificate.mkdir()
    with pytest.raises(ConfigError, match=rf'upstreams\."{NAME}"\.{told}') as caught:
        async with dialing("https://127.0.0.1:9", **files):
            pass
    assert "\n" not in str(caught.value)
