"""A token server for docker-registry: signed tokens (distribution docs, spec/auth/jwt), Basic, and a log of who asked.

Rule 1: loopback only, in a thread of the test's process; every token given is remembered.
Rule 2: docker-registry lets a token live 60 seconds longer than it says (its leeway): `exp` is that much earlier, so
        that what it was given for `life` seconds is refused after them.
"""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ISSUER, SERVICE = "iarproxy-test", "registry.test"
_LEEWAY = 60  # seconds that docker-registry adds


@dataclass(frozen=True)
class Certified:
    """A key and its certificate of its own for 127.0.0.1."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> Certified:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "iarproxy test")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(identifier, critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The certificate's and the key's file, in PEM."""
        folder.mkdir(exist_ok=True)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key


@dataclass(frozen=True)
class Granted:
    """One answer. `at`: seconds of the monotonic clock; `token`: empty where it was a no."""

    at: float
    scope: str
    token: str = field(repr=False)


class TokenServer:
    """Gives tokens of `life` seconds to `users` (passwords by name). Use as `with`."""

    def __init__(self, users: dict[str, str], *, life: int) -> None:
        self.users = users
        self.life = life
        self.log: list[Granted] = []
        self.signer = Certified.new()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="token server")

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def granted(self) -> list[Granted]:
        return [each for each in self.log if each.token]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def answer(self, authorization: str, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Status and JSON for one question."""
        scope = query.get("scope", [""])[0]
        user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        good = authorization.startswith("Basic ") and self.users.get(user) == password
        token = self._signed(user, scope) if good else ""
        self.log.append(Granted(time.monotonic(), scope, token))
        return (200, {"token": token, "expires_in": self.life}) if good else (401, {"details": "no"})

    def _signed(self, user: str, scope: str) -> str:
        now = datetime.now(UTC).timestamp()
        kind, name, actions = scope.split(":")
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": math.ceil(now + self.life) - _LEEWAY,
            "nbf": int(now) - 2 * _LEEWAY,
            "iat": int(now),
            "jti": str(len(self.log)),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        der = base64.b64encode(self.signer.certificate.public_bytes(Encoding.DER)).decode()
        signed = f"{_part({'typ': 'JWT', 'alg': 'ES256', 'x5c': [der]})}.{_part(claims)}"
        r, s = decode_dss_signature(self.signer.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_coded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                status, answer = server.answer(self.headers.get("Authorization", ""), query)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's signature
                """Nothing."""

        return Handler


def _part(document: dict[str, Any]) -> str:
    return _coded(json.dumps(document).encode())


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
