"""Who seems to have signed an image, read out of the attachments that upstream tells of.

Rule 1: nothing here is verified. A name, certificate or key hint is what its writer put there; it says what changed
        between two images, and admits nothing.
Rule 2: it is bounded, and what cannot be read is a signature of nobody in particular.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography import x509

from iarproxy.oci import Digest, Manifest
from iarproxy.trust.image_config import shown

COSIGN = "application/vnd.dev.cosign.artifact.sig.v1+json"
NOTATION = "application/vnd.cncf.notary.signature"
BUNDLE = "application/vnd.dev.sigstore.bundle"  # and a version
MAX_BUNDLE = 64 * 1024  # bytes
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_PREDICATE = "dev.sigstore.bundle.predicateType"
_SIGNED = "https://sigstore.dev/cosign/sign/v1"
_MAX_CERTIFICATE = 16 * 1024  # characters
_MAX_LAYERS = 8
_ISSUERS = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")  # Fulcio: who vouches for the identity


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature that is attached to an image; unverified.

    Attributes:
        form: `cosign`, `sigstore bundle` or `notation`.
        digest: of the manifest that carries it.
        who: an identity or a key's hint; empty: it names nobody.
    """

    form: str
    digest: Digest
    who: str = ""

    def __str__(self) -> str:
        return f"{self.form} by {self.who}" if self.who else f"{self.form}, by a key that it does not name"


def form_of(artifact_type: str, annotations: dict[str, str]) -> str:
    """The form of signature that a referrer of that type is; empty: it is none, or an attestation."""
    if artifact_type == COSIGN:
        return "cosign"
    if artifact_type == NOTATION:
        return "notation"
    if artifact_type.startswith(BUNDLE):
        predicate = annotations.get(_PREDICATE, _SIGNED)
        return "sigstore bundle" if predicate == _SIGNED else ""
    return ""


def of_cosign(manifest: Manifest) -> tuple[Signature, ...]:
    """The signatures of a manifest in cosign's form, one for each layer (interop.md 4.4)."""
    layers = orjson.loads(manifest.raw).get("layers") or []
    found = [each.get("annotations") or {} for each in layers[:_MAX_LAYERS] if isinstance(each, dict)]
    names = [_identity_of_pem(each.get(_CERTIFICATE)) for each in found if isinstance(each, dict)]
    return tuple(Signature("cosign", manifest.descriptor.digest, who) for who in names)


def of_bundle(digest: Digest, raw: bytes) -> Signature:
    """The signature in a sigstore bundle; `digest`: of the manifest that carries it."""
    try:
        material = orjson.loads(raw).get("verificationMaterial") if len(raw) <= MAX_BUNDLE else None
    except (orjson.JSONDecodeError, AttributeError):
        material = None
    return Signature("sigstore bundle", digest, _named(material) if isinstance(material, dict) else "")


def _named(material: dict[str, Any]) -> str:
    key = material.get("publicKey")
    if isinstance(key, dict) and isinstance(key.get("hint"), str):
        return f"key {shown(key['hint'])}"
    chain = material.get("x509CertificateChain")
    listed = chain.get("certificates") if isinstance(chain, dict) else None
    certificate = material.get("certificate") or (listed[0] if isinstance(listed, list) and listed else None)
    encoded = certificate.get("rawBytes") if isinstance(certificate, dict) else None
    if not isinstance(encoded, str) or len(encoded) > _MAX_CERTIFICATE:
        return ""
    try:
        return _identity(x509.load_der_x509_certificate(base64.b64decode(encoded)))
    except (ValueError, binascii.Error):
        return ""


def _identity_of_pem(text: Any) -> str:
    if not isinstance(text, str) or len(text) > _MAX_CERTIFICATE:
        return ""
    try:
        return _identity(x509.load_pem_x509_certificate(text.encode()))
    except ValueError:
        return ""


def _identity(certificate: x509.Certificate) -> str:
    """Whom a certificate names: its first mail address or URI, and who vouched for it."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        texts = [
            str(each.value) for each in names if isinstance(each, x509.RFC822Name | x509.UniformResourceIdentifier)
        ]
    except (x509.ExtensionNotFound, ValueError):
        texts = []
    who = shown(texts[0]) if texts else shown(certificate.subject.rfc4514_string())
    issuer = _issuer(certificate)
    return f"{who} (as {issuer} says)" if who and issuer else who


def _issuer(certificate: x509.Certificate) -> str:
    for wanted in _ISSUERS:
        try:
            value = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(wanted)).value
        except (x509.ExtensionNotFound, ValueError):
            continue
        if isinstance(value, x509.UnrecognizedExtension):
            raw = value.value
            printable = raw[2:] if wanted == _ISSUERS[0] and len(raw) > 2 else raw  # noqa: PLR2004  # DER: tag, length
            return shown(printable.decode("utf-8", "replace"))
    return ""
