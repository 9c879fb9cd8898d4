"""Which environment a request is about: nobody gets the pins of another one than the address, host or path names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import names
from iarproxy.errors import Malformed, UnknownName
from iarproxy.oci import Repository
from iarproxy.oci.routing import DEFAULT, Place, Routes

ROUTES = Routes(
    frozenset({"docker.io", "ghcr.io"}),
    default="docker.io",
    bindings={"ghcr.mirror.example": "ghcr.io", "127.0.0.1:5010": "ghcr.io"},
    own=frozenset({"127.0.0.1:5000"}),
    environments={
        "127.0.0.1:5010": "prod",
        "127.0.0.1:5011": "prod",
        "prod.mirror.example": "prod",
        "st:81": "staging",
    },
    prefixes={"prod": "prod", "staging": "staging"},
)
HUB = "docker.io/library/alpine"
EXAMPLES = [
    ("alpine", {}, DEFAULT, HUB),
    ("alpine", {"listener": "127.0.0.1:5000", "host": "127.0.0.1:5000"}, DEFAULT, HUB),
    # by listener, which may be bound to an upstream too
    ("alpine", {"listener": "127.0.0.1:5011", "host": "whatever"}, "prod", HUB),
    ("org/app", {"listener": "127.0.0.1:5010"}, "prod", "ghcr.io/org/app"),
    ("org/app", {"listener": "127.0.0.1:5011", "namespace": "ghcr.io"}, "prod", "ghcr.io/org/app"),
    # by host name, however it is spelled
    ("alpine", {"host": "prod.mirror.example"}, "prod", HUB),
    ("alpine", {"host": "Prod.mirror.example:5000"}, "prod", HUB),
    ("alpine", {"host": "prod.mirror.example.:5000"}, "prod", HUB),
    ("alpine", {"host": "prod.mirror.example."}, "prod", HUB),
    ("alpine", {"host": "st:81"}, "staging", HUB),
    ("alpine", {"host": "st"}, DEFAULT, HUB),
    ("ghcr.io/org/app", {"host": "prod.mirror.example"}, "prod", "ghcr.io/org/app"),
    # by `ns` of a client that was told to reach that host elsewhere
    ("alpine", {"namespace": "prod.mirror.example"}, "prod", HUB),
    ("ghcr.io/org/app", {"namespace": "PROD.mirror.example:443"}, "prod", "ghcr.io/org/app"),
    # by prefix, before every other meaning of the path
    ("prod/alpine", {}, "prod", HUB),
    ("prod/library/alpine", {"namespace": "docker.io"}, "prod", HUB),
    ("prod/ghcr.io/org/app", {}, "prod", "ghcr.io/org/app"),
    ("prod/org/app", {"host": "ghcr.mirror.example"}, "prod", "ghcr.io/org/app"),
    ("prod/prod/app", {}, "prod", "docker.io/prod/app"),
    ("docker.io/prod/app", {}, DEFAULT, "docker.io/prod/app"),
    ("prod", {}, DEFAULT, "docker.io/library/prod"),
    # two ways that agree
    ("prod/alpine", {"listener": "127.0.0.1:5011", "host": "prod.mirror.example:5011"}, "prod", HUB),
]


@pytest.mark.parametrize(("name", "route", "environment", "repository"), EXAMPLES)
def test_worked_examples(name: str, route: dict[str, str], environment: str, repository: str) -> None:
    """Each way leads to one environment, and to the repository that the rest of the request means."""
    registry, _, path = repository.partition("/")
    assert Place(environment, Repository.of(registry, path)) == ROUTES.place(name, **route)


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("staging/alpine", {"listener": "127.0.0.1:5011"}),
        ("staging/alpine", {"host": "prod.mirror.example"}),
        ("staging/alpine", {"namespace": "prod.mirror.example"}),
        ("alpine", {"listener": "127.0.0.1:5011", "host": "st:81"}),
        ("alpine", {"host": "st:81", "namespace": "prod.mirror.example"}),
    ],
)
def test_two_environments_are_refused(name: str, route: dict[str, str]) -> None:
    """A request that names two gets neither."""
    with pytest.raises(Malformed, match=r"two environments: (prod|staging) by its .* and (staging|prod) by its .*"):
        ROUTES.place(name, **route)


def test_the_closed_list_counts_everywhere() -> None:
    """An environment adds no upstream."""
    for name in ("prod/evil.example/app", "evil.example/app"):
        with pytest.raises(UnknownName):
            ROUTES.place(name, listener="127.0.0.1:5011")


@given(name=names, host=st.text(max_size=40), namespace=st.none() | st.sampled_from(["docker.io", "ghcr.io"]))
def test_a_listener_is_one_environment(name: str, host: str, namespace: str | None) -> None:
    """Whatever a client sends to it, a listener of prod gives prod or an error."""
    try:
        found = ROUTES.place(name, namespace=namespace, listener="127.0.0.1:5011", host=host)
    except (Malformed, UnknownName):
        return
    assert "prod" == found.environment


@given(name=names, namespace=st.none() | st.sampled_from(["docker.io", "ghcr.io"]))
def test_without_environments_nothing_is_different(name: str, namespace: str | None) -> None:
    """Where none is configured, a place is the default environment and the repository of old."""
    plain = Routes(frozenset({"docker.io", "ghcr.io"}), default="docker.io")
    try:
        expected = plain.repository(name, namespace=namespace)
    except (Malformed, UnknownName) as error:
        with pytest.raises(type(error)):
            plain.place(name, namespace=namespace)
        return
    assert Place(DEFAULT, expected) == plain.place(name, namespace=namespace)
