"""The tools that `tests/go_tools.py` built come first where programs are looked for; and where clients are watched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import ArtifactWorld, Tools
from client import Client, Place
from go_tools import search_path
from stage import Stage

os.environ["PATH"] = search_path()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactWorld]:
    """What the artifact tools of a module see."""
    with ArtifactWorld(tmp_path_factory.mktemp("artifacts")) as made:
        yield made


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


@pytest.fixture(scope="module")
def client(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Client]:
    """One of `matrix.clients`."""
    row, suite = request.param
    with row.driver(Place(suite, stage.front.port, stage.sentinel.port)) as made:
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest, stage: Stage) -> Iterator[str]:
    """A repository of this test's own; the sentinel forgets what it saw before, and no connection outlives the test."""
    stage.strayed()
    yield hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    stage.hang_up()
