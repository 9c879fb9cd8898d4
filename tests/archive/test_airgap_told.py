"""What commands tell somebody who runs a site by its documents alone: what is true, what is meant, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from airgap_bundles import Made, fresh_site, made
from airgap_world import Place


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def site(tmp_path: Path) -> Place:
    return fresh_site(tmp_path / "site")


@pytest.mark.parametrize("words", ["drift check", "diff env:default upstream", "diff upstream env:default"])
def test_upstream_is_not_asked_offline(site: Place, bundle: Made, words: str) -> None:
    """A command that compares with upstream says in one line that this site is offline, and not that what is held is
    not; the code is that of what cannot be told here.
    """
    site.done(*bundle.applying())
    ended = site.run(*words.split())
    assert (4, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
    assert "offline" in ended.err
    assert "not held" not in ended.err
