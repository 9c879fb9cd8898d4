"""Routing: many routes to one repository, and none to anything outside the closed list (T26, T27)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import names, registries
from iarproxy.errors import Malformed, NameInvalid, Refused, UnknownName
from iarproxy.oci import Repository
from iarproxy.oci.routing import Routes

UPSTREAMS = frozenset({"docker.io", "ghcr.io", "quay.io", "reg.lan:5000", "localhost:7000"})
ROUTES = Routes(
    UPSTREAMS,
    default="docker.io",
    bindings={"127.0.0.1:5443": "ghcr.io", "quay.mirror.example": "quay.io"},
    own=frozenset({"127.0.0.1:5000", "mirror.example"}),
)
EXAMPLES = [
    # clients.md section 12.3: what clients send, and the one thing it means
    ("library/alpine", None, "docker.io/library/alpine"),
    ("library/alpine", "docker.io", "docker.io/library/alpine"),
    ("docker.io/library/alpine", "docker.io", "docker.io/library/alpine"),
    ("docker.io/library/alpine", None, "docker.io/library/alpine"),
    ("docker.io/alpine", None, "docker.io/library/alpine"),
    ("library/alpine", "registry-1.docker.io", "docker.io/library/alpine"),
    ("index.docker.io/library/alpine", None, "docker.io/library/alpine"),
    ("grafana/grafana", None, "docker.io/grafana/grafana"),
    ("ghcr.io/org/app", None, "ghcr.io/org/app"),
    ("org/app", "ghcr.io", "ghcr.io/org/app"),
    ("team/x", "reg.lan:5000", "reg.lan:5000/team/x"),
    ("reg.lan_5000_/team/x", None, "reg.lan:5000/team/x"),
    ("ghcr.io/org/app", "127.0.0.1:5000", "ghcr.io/org/app"),
    # and more of the same kind
    ("alpine", None, "docker.io/library/alpine"),
    ("alpine", "DOCKER.IO", "docker.io/library/alpine"),
    ("alpine", "registry.hub.docker.com", "docker.io/library/alpine"),
    ("Docker.io/alpine", None, "docker.io/library/alpine"),
    ("registry-1.docker.io/alpine", "index.docker.io", "docker.io/library/alpine"),
    ("reg.lan:5000/team/x", None, "reg.lan:5000/team/x"),
    ("reg.lan:5000/team/x", "reg.lan:5000", "reg.lan:5000/team/x"),
    ("localhost:7000/x", None, "localhost:7000/x"),
    ("x", "ghcr.io:443", "ghcr.io/x"),
    ("x", "GHCR.io", "ghcr.io/x"),
    ("alpine", "MIRROR.example", "docker.io/library/alpine"),
    ("quay.io", None, "docker.io/library/quay.io"),
    ("unknown.example/x", "ghcr.io", "ghcr.io/unknown.example/x"),
]


@pytest.mark.parametrize(("name", "namespace", "expected"), EXAMPLES)
def test_worked_examples(name: str, namespace: str | None, expected: str) -> None:
    """Each spelling on each route means its one repository."""
    assert str(ROUTES.repository(name, namespace=namespace)) == expected


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("unknown.example/x", None),
        ("localhost/x", None),
        ("127.0.0.1:5000/x", None),
        ("169.254.169.254/latest/meta-data", None),
        ("reg.lan/x", None),
        ("reg.lan:5001/x", None),
        ("x", "unknown.example"),
        ("x", "169.254.169.254"),
        ("x", ""),
        ("x", "lan"),
        ("x", "ghcr.io/"),
        ("x", "http://ghcr.io"),
        ("x", "ghcr.io@evil.example"),
        ("x", "ghcr.io\nX: 1"),
        ("x", "docker.io.evil.example"),
        ("x", "doc\u212aer.io"),
        ("ghcr.io/x", "unknown.example"),
    ],
)
def test_unknown(name: str, namespace: str | None) -> None:
    """What is not in the closed list is unknown, whoever names it, and the message lists what is."""
    with pytest.raises(UnknownName, match=r"ghcr\.io"):
        ROUTES.repository(name, namespace=namespace)


def test_the_path_may_not_contradict() -> None:
    """`ns` and the first path segment that name two known upstreams are refused, not guessed about."""
    with pytest.raises(Malformed, match=r"quay\.io.*ghcr\.io"):
        ROUTES.repository("quay.io/org/app", namespace="ghcr.io")


@pytest.mark.parametrize(
    ("listener", "host", "name", "namespace", "expected"),
    [
        ("127.0.0.1:5443", "", "org/app", None, "ghcr.io/org/app"),
        ("127.0.0.1:5443", "", "ghcr.io/org/app", None, "ghcr.io/org/app"),
        ("127.0.0.1:5443", "", "org/app", "ghcr.io", "ghcr.io/org/app"),
        ("", "Quay.Mirror.Example", "a/b", None, "quay.io/a/b"),
        ("", "quay.mirror.example:5000", "a/b", None, "quay.io/a/b"),
        ("127.0.0.1:5443", "quay.mirror.example", "a/b", None, "ghcr.io/a/b"),
        ("", "evil.example", "a/b", None, "docker.io/a/b"),
    ],
)
def test_bindings(listener: str, host: str, name: str, namespace: str | None, expected: str) -> None:
    """A bound listener, then a bound host name, decides before anything in the request does."""
    assert str(ROUTES.repository(name, namespace=namespace, listener=listener, host=host)) == expected


@pytest.mark.parametrize(("name", "namespace"), [("org/app", "quay.io"), ("quay.io/org/app", None)])
def test_a_binding_may_not_be_contradicted(name: str, namespace: str | None) -> None:
    """A request on a bound listener that names another known upstream is refused."""
    with pytest.raises(Malformed):
        ROUTES.repository(name, namespace=namespace, listener="127.0.0.1:5443")


def test_unknown_ns_on_a_binding() -> None:
    """An unknown `ns` is unknown on a bound listener too."""
    with pytest.raises(UnknownName):
        ROUTES.repository("org/app", namespace="evil.example", listener="127.0.0.1:5443")


def test_no_default() -> None:
    """Without a default upstream a name that says nothing is unknown, and one that says something is not."""
    routes = Routes(frozenset({"ghcr.io"}))
    with pytest.raises(UnknownName, match="no registry in front"):
        routes.repository("org/app")
    assert str(routes.repository("org/app", namespace="ghcr.io")) == "ghcr.io/org/app"


def test_no_upstreams() -> None:
    """An empty list is an answer, not a crash."""
    with pytest.raises(UnknownName, match="none"):
        Routes(frozenset()).repository("org/app")


def test_bad_names() -> None:
    """What is left after routing must be a repository name."""
    for name in ("A/b", "ghcr.io/A", "ghcr.io/a..b", "a/" + "b" * 260):
        with pytest.raises(NameInvalid):
            ROUTES.repository(name)


_SPELLINGS = st.sampled_from(["docker.io", "index.docker.io", "registry-1.docker.io", "DOCKER.io", "docker.io:443"])


@given(names, _SPELLINGS)
def test_every_route_finds_the_same_repository(name: str, spelling: str) -> None:
    """Classic docker, `ns`, prefix, and both: one repository, whatever it is called (T27)."""
    expected = Repository.of("docker.io", name)
    if "." not in name.partition("/")[0] and not name.startswith("localhost/"):
        assert ROUTES.repository(name) == expected
    assert ROUTES.repository(name, namespace=spelling) == expected
    assert ROUTES.repository(f"{spelling}/{name}", namespace=None) == expected
    assert ROUTES.repository(f"{spelling}/{name}", namespace=spelling) == expected


@given(st.text(max_size=40), st.none() | st.text(max_size=20) | registries, st.text(max_size=20), st.text(max_size=20))
def test_closed_list(name: str, namespace: str | None, listener: str, host: str) -> None:
    """Whatever is asked, the answer is a repository of a configured upstream or a refusal (T26)."""
    try:
        found = ROUTES.repository(name, namespace=namespace, listener=listener, host=host)
    except Refused:
        return
    assert found.registry in UPSTREAMS
