"""The keys of `[server.tls]`: where the registry speaks TLS, and whom it lets in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from iarproxy.config.values import Address


class ClientCertificates(StrEnum):
    """What a client without a certificate gets."""

    OPTIONAL = "optional"  # everything; a certificate that is shown is verified
    REQUIRED = "required"  # no connection


class TlsSettings(BaseModel):
    """`[server.tls]`. All files are PEM, and are read again when they change.

    `cert_file`: the certificate, and those between it and its authority; `client_ca_file`: who issues certificates to
    clients; without it they are asked for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: tuple[Address, ...] = Field(min_length=1)
    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_certificates: ClientCertificates = ClientCertificates.REQUIRED

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.client_ca_file is None and "client_certificates" in self.model_fields_set:
            raise ValueError("client_certificates needs client_ca_file: it says who may issue them")
        return self
