"""A corpus of `WWW-Authenticate` headers, real ones and hostile ones (clients.md 11.2, U5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.upstream.challenge import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"'


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            [HUB],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/alpine:pull",
                    },
                )
            ],
        ),
        (
            ['Bearer realm="https://quay.io/v2/auth",service="quay.io"'],
            [("bearer", {"realm": "https://quay.io/v2/auth", "service": "quay.io"})],
        ),
        (
            ['Bearer realm="https://r/t",scope="repository:a:pull,push",error="insufficient_scope"'],
            [("bearer", {"realm": "https://r/t", "scope": "repository:a:pull,push", "error": "insufficient_scope"})],
        ),
        (['Basic realm="Registry Realm"'], [("basic", {"realm": "Registry Realm"})]),
        (
            ['Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"'],
            [
                (
                    "basic",
                    {
                        "realm": "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",
                        "service": "ecr.amazonaws.com",
                    },
                )
            ],
        ),
        (
            ['Bearer realm="https://team.azurecr.io/oauth2/token",service="team.azurecr.io",error="invalid_token"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://team.azurecr.io/oauth2/token",
                        "service": "team.azurecr.io",
                        "error": "invalid_token",
                    },
                )
            ],
        ),
        (
            ['Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",error="invalid_token"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://gitlab.com/jwt/auth",
                        "service": "container_registry",
                        "error": "invalid_token",
                    },
                )
            ],
        ),
        (
            ['Bearer realm="https://europe-docker.pkg.dev/v2/token"'],
            [("bearer", {"realm": "https://europe-docker.pkg.dev/v2/token"})],
        ),
        (
            ['Bearer realm="https://r/t",service="s",scope=""'],
            [("bearer", {"realm": "https://r/t", "service": "s", "scope": ""})],
        ),
        (["BASIC REALM=plain"], [("basic", {"realm": "plain"})]),
        (["bearer realm=https://r/t, service=s"], [("bearer", {"realm": "https://r/t", "service": "s"})]),
        (["Bearer realm = \"x\" , service\t=\t'y'"], [("bearer", {"realm": "x", "service": "'y'"})]),
        (
            ['Bearer realm="https://r/t?a=1,2",service="s"', 'Basic realm="b"'],
            [("bearer", {"realm": "https://r/t?a=1,2", "service": "s"}), ("basic", {"realm": "b"})],
        ),
        (
            ['Basic realm="b", Bearer realm="https://r/t",service="s"'],
            [("basic", {"realm": "b"}), ("bearer", {"realm": "https://r/t", "service": "s"})],
        ),
        (
            ['Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"'],
            [("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}), ("basic", {"realm": "simple"})],
        ),
        (["Negotiate"], [("negotiate", {})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Negotiate YWJj/+==, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        ([', ,Basic realm="x",, service="y" ,'], [("basic", {"realm": "x", "service": "y"})]),
        (['Bearer realm="a\\\\b\\",c"'], [("bearer", {"realm": 'a\\b",c'})]),
        (['Bearer realm="one",realm="two"'], [("bearer", {"realm": "one"})]),
        (['Bearer realm=""'], [("bearer", {"realm": ""})]),
        (['Bearer realm="unterminated, service="s"'], [("bearer", {})]),
        (["Bearer"], [("bearer", {})]),
        ([""], []),
        (['"', "=", ",,,"], []),
        ([], []),
    ],
)
def test_corpus(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    """Each header gives exactly these challenges."""
    assert parse_challenges(headers) == [Challenge(scheme, parameters) for scheme, parameters in expected]


@given(st.lists(st.text(max_size=200), max_size=5))
def test_anything_parses_to_something(headers: list[str]) -> None:
    """No header raises, hangs, or gives more than the bounds."""
    found = parse_challenges(headers)
    assert len(found) <= 16
    assert all(len(each.parameters) <= 32 for each in found)


@pytest.mark.parametrize("piece", ['a="', "a=b,", "Basic ", "\\", ' "', "=,", 'a="\\'])
def test_long_headers_are_cheap(piece: str) -> None:
    """A header of a megabyte is cut before it is read, whatever it repeats."""
    assert len(parse_challenges([piece * 200_000])) <= 16
