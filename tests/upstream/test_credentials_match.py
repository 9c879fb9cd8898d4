"""Which key of an auth file is meant for a registry, in every spelling that docker, podman and Kubernetes know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from iarproxy.upstream.credentials_match import Server

HUB = "https://registry-1.docker.io"
AZURE = "https://team.azurecr.io"


@pytest.mark.parametrize(
    ("key", "url", "repository", "matches"),
    [
        ("ghcr.io", "https://ghcr.io", "a/b", True),
        ("GHCR.io", "https://ghcr.io", "a/b", True),
        ("https://ghcr.io", "https://ghcr.io", "a/b", True),
        ("https://ghcr.io/", "https://ghcr.io", "a/b", True),
        ("https://ghcr.io/v1/", "https://ghcr.io", "a/b", True),
        ("https://ghcr.io/v2/", "https://ghcr.io", "a/b", True),
        ("http://ghcr.io/v2", "https://ghcr.io", "a/b", True),
        ("ghcr.io:443", "https://ghcr.io", "a/b", True),
        ("ghcr.io:5000", "https://ghcr.io", "a/b", False),
        ("ghcr.io", "https://ghcr.io:5000", "a/b", False),
        ("ghcr.io:5000", "https://ghcr.io:5000", "a/b", True),
        ("127.0.0.1:5000", "http://127.0.0.1:5000", "a/b", True),
        ("[::1]:5000", "http://[::1]:5000", "a/b", True),
        ("ghcr.io.evil.example", "https://ghcr.io", "a/b", False),
        ("evil.example/ghcr.io", "https://ghcr.io", "a/b", False),
        ("", "https://ghcr.io", "a/b", False),
        ("https://", "https://ghcr.io", "a/b", False),
        ("user@ghcr.io", "https://ghcr.io", "a/b", False),
        *[
            (key, HUB, "library/alpine", True)
            for key in (
                "https://index.docker.io/v1/",
                "index.docker.io/v1/",
                "index.docker.io",
                "docker.io",
                "registry-1.docker.io",
                "https://registry-1.docker.io/v2/",
                "docker.io/library",
                "docker.io/library/alpine",
            )
        ],
        ("docker.io/library/alp", HUB, "library/alpine", False),
        ("https://auth.docker.io", HUB, "library/alpine", False),
        ("docker.io", "https://mirror.example", "library/alpine", False),
        ("ghcr.io/org", "https://ghcr.io", "org/app", True),
        ("https://ghcr.io/v2/org/app", "https://ghcr.io", "org/app", True),
        ("ghcr.io/org", "https://ghcr.io", "organ/app", False),
        ("*.azurecr.io", AZURE, "a/b", True),
        ("*.azurecr.io/a", AZURE, "a/b", True),
        ("t*m.azurecr.io", AZURE, "a/b", True),
        ("*.azurecr.io:443", AZURE, "a/b", True),
        ("*.azurecr.io", "https://a.b.azurecr.io", "a/b", False),
        ("*.*.azurecr.io", "https://a.b.azurecr.io", "a/b", True),
        ("*.azurecr.io", "https://azurecr.io", "a/b", False),
        ("*azurecr.io", "https://evil-azurecr.io", "a/b", True),
        ("*", AZURE, "a/b", False),
    ],
)
def test_keys(key: str, url: str, repository: str, matches: bool) -> None:  # noqa: FBT001  # a column
    """A key matches the registry's own host and port, and a path the beginning of the repository."""
    assert ([key] if matches else []) == Server.of(URL(url)).matching([key], repository)


def test_the_most_specific_comes_first() -> None:
    """The longest path, then a host without wildcards; what is not meant for this repository is left out."""
    keys = [
        "*.azurecr.io",
        "team.azurecr.io",
        "team.azurecr.io/a/b",
        "*.azurecr.io/a",
        "team.azurecr.io/c",
        "t*m.azurecr.io",
    ]
    expected = ["team.azurecr.io/a/b", "*.azurecr.io/a", "team.azurecr.io", "t*m.azurecr.io", "*.azurecr.io"]
    assert expected == Server.of(URL(AZURE)).matching(keys, "a/b")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (HUB, "https://index.docker.io/v1/"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("http://localhost", "localhost"),
        ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
    ],
)
def test_what_helpers_are_asked_for(url: str, address: str) -> None:
    """The registry's host, with its port if it has one of its own; Docker Hub by its legacy name."""
    assert address == Server.of(URL(url)).address


@given(st.text(max_size=100))
def test_any_key_is_just_a_key(key: str) -> None:
    """No key raises."""
    Server.of(URL(AZURE)).matching([key, f"https://{key}/v2/", f"team.azurecr.io:{key}"], "a/b")
