"""Options and arguments that several commands share, and how their texts become values.

Rule: commands that need no more than an option import this too, so what opens the rest is imported where it is called.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from iarproxy.errors import Malformed
from iarproxy.oci import DOCKER_HUB, Digest, Platform, Reference, TagReference, parse_reference
from iarproxy.oci.routing import DEFAULT
from iarproxy.trust.environments import FIRST_FETCHES, Environment

if TYPE_CHECKING:
    from iarproxy.cli.holdings import Holdings
    from iarproxy.cli.wiring import Rooms
    from iarproxy.config import Config

T = TypeVar("T")
H = TypeVar("H")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        readable=False,  # whether it can be read is found, and said, where it is read
        help="Configuration file; see also IARPROXY_CONFIG.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
EnvironmentOption = Annotated[str, typer.Option("--env", metavar="ENV", help="The environment whose pins are meant.")]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="[REGISTRY/]REPOSITORY[:TAG][@DIGEST], for example ghcr.io/org/app:1.2")
]


def load(chosen: Path | None) -> Config:
    """The configuration of this machine."""
    from iarproxy.config import load as load_config  # noqa: PLC0415  # see the rule

    return load_config(chosen, os.environ)


def run(chosen: Path | None, command: Callable[[Rooms], Awaitable[T]]) -> T:
    """Run a command over opened rooms, as the store's owner.

    Raises:
        ConfigError: the configuration or the store does not allow it.
    """
    from iarproxy.cli.wiring import open_rooms  # noqa: PLC0415  # see the rule

    return _run(load(chosen), open_rooms, command)


def run_held(chosen: Path | None, command: Callable[[Holdings], Awaitable[T]]) -> T:
    """As `run`, for a command that asks no upstream."""
    from iarproxy.cli.holdings import open_holdings  # noqa: PLC0415  # see the rule

    return _run(load(chosen), open_holdings, command)


def _run(
    config: Config, opened: Callable[[Config], AbstractAsyncContextManager[H]], command: Callable[[H], Awaitable[T]]
) -> T:
    from iarproxy.cli.holdings import become_owner  # noqa: PLC0415  # see the rule

    become_owner(config.store.path)

    async def inside() -> T:
        async with opened(config) as holdings:
            return await command(holdings)

    return asyncio.run(inside())


def reference(text: str, config: Config) -> Reference:
    """The reference that a person wrote; without a registry it means the default upstream, as for clients.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return parse_reference(text, config.default_upstream or DOCKER_HUB)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from error


def tag_reference(text: str, config: Config) -> TagReference:
    """As `reference`, but only a tag will do."""
    parsed = reference(text, config)
    if not isinstance(parsed, TagReference):
        raise typer.BadParameter(f"{text}: give a tag, not a digest; only tags are pinned")
    return parsed


def digest(text: str) -> Digest:
    """The digest that a person wrote."""
    try:
        return Digest.parse(text)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from error


def platforms(texts: list[str]) -> list[Platform]:
    """The platforms that a person wrote; `all` and nothing mean all of them."""
    try:
        return [Platform.parse(text) for text in texts if text != "all"]
    except Malformed as error:
        raise typer.BadParameter(str(error)) from error


def environment_of(config: Config, name: str) -> Environment:
    """The environment that a person named.

    Raises:
        typer.BadParameter: there is none.
    """
    if name == DEFAULT:
        return FIRST_FETCHES
    if name not in config.environments:
        known = ", ".join([DEFAULT, *config.environments])
        raise typer.BadParameter(f"{name}: no such environment; there are {known}")
    return config.environments[name].named(name)


def given_reason(text: str) -> str:
    """A person's reason for an act.

    Raises:
        typer.BadParameter: it says nothing.
    """
    if not text.strip():
        raise typer.BadParameter("--reason is empty; say why, the journal keeps it")
    return text.strip()
