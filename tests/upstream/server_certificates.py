"""TLS contexts for a `FakeRegistry`, from an authority of the tests' own."""

from __future__ import annotations

import ssl
from pathlib import Path

from certificates import CertificateAuthority


def serving_with(authority: CertificateAuthority, folder: Path, *, wants: Path | None = None) -> ssl.SSLContext:
    """A server that shows a certificate of `authority`, and wants one of the authority `wants` where that is given."""
    certificate, key = folder / "server.crt", folder / "server.key"
    authority.issue().write(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if wants is not None:
        context.load_verify_locations(wants)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
