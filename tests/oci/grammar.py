"""Strategies that speak the grammar of the OCI specifications, written from them and not from our code."""

from __future__ import annotations

from hypothesis import strategies as st

from iarproxy.oci import Descriptor, Digest, DigestReference, Repository, Tag, TagReference

LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
UPPER = LOWER.upper()
HEX = "0123456789abcdef"

digests = st.one_of(
    st.text(HEX, min_size=64, max_size=64).map(lambda text: Digest("sha256", text)),
    st.text(HEX, min_size=128, max_size=128).map(lambda text: Digest("sha512", text)),
)
_word = st.text(LOWER, min_size=1, max_size=12)
_separator = st.sampled_from([".", "_", "__", "-", "--", "---"])
_component = st.builds(
    lambda head, rest: head + "".join(a + b for a, b in rest), _word, st.lists(st.tuples(_separator, _word), max_size=2)
)
names = st.lists(_component, min_size=1, max_size=4).map("/".join)
tags = st.builds(
    lambda head, rest: Tag(head + rest),
    st.sampled_from(LOWER + UPPER + "_"),
    st.text(LOWER + UPPER + "._-", max_size=127),
)
# As in distribution/reference: what tells a registry from a path component is a dot, a colon, or being `localhost`.
_label = st.builds(lambda head, middle, tail: head + middle + tail, *[_word, st.sampled_from(["", "-", "--"]), _word])
_host = st.one_of(
    st.lists(_label, min_size=2, max_size=4).map(".".join),
    st.just("localhost"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
registries = st.builds(
    lambda host, port: host if port in (None, 443) else f"{host}:{port}", _host, st.none() | st.integers(1, 65535)
)
repositories = st.builds(Repository.of, registries | st.just("docker.io"), names)
references = st.one_of(st.builds(TagReference, repositories, tags), st.builds(DigestReference, repositories, digests))
_restricted = st.builds(
    lambda head, rest: head + rest,
    st.sampled_from(LOWER + UPPER),
    st.text(LOWER + UPPER + "!#$&^_.+-", max_size=30),
)
media_types = st.builds("{}/{}".format, _restricted, _restricted)
sizes = st.integers(0, 2**53 - 1)
descriptors = st.builds(Descriptor, media_types, digests, sizes)
