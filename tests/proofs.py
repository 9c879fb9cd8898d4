"""What tests prove about client programs, kept as JSON for the table in docs/clients.md.

Rule 1: a test says which client it drives and which capabilities it proves; a test that did not run proves nothing:

    @pytest.mark.client("crane", "crane", "version")  # the row: a name, and the command that prints the version
    @pytest.mark.proves("digest", "tag")              # the columns
    def test_crane() -> None: ...

    A client that comes in several versions is a parameter that brings its mark: `pytest.param(..., marks=[
    pytest.mark.client("podman", "chroot", folder, "podman", "--version")])`. The word "n/a" has a mark as well:
    `@pytest.mark.lacks("resume", "it starts over")`, at any test of that client.

Rule 2: the version is the one that the program itself prints.
Rule 3: the results of a run are in `.pytest_cache/d/clients/results.json`, or where `--clients-results FILE` says; one
        that drives no client leaves the file alone. `make clients-table` makes the table of them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

CAPABILITIES = (
    "mirror mode",
    "explicit name",
    "digest",
    "tag",
    "strict mode",
    "refusal",
    "resume",
    "referrers",
    "50 warm pulls",
    "moved tag",
    "media types",
)
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")
_PROPERTY = "client"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clients-results", metavar="FILE", help="where to write what was proven about client programs")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "client(name, *command): drives this client; the command prints its version")
    config.addinivalue_line("markers", "proves(*capabilities): what passing says about the client; see tests/proofs.py")
    config.addinivalue_line("markers", "lacks(capability, reason): what the client itself does not do, and why")
    if not hasattr(config, "workerinput"):  # with xdist, the controller alone hears of every test
        config.pluginmanager.register(_Results(config))


@functools.cache
def version(*command: str) -> str:
    """The first version number in what the command prints.

    Raises:
        AssertionError: it prints none.
    """
    path = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | path)
    found = _VERSION.search(ran.stdout + ran.stderr)
    assert found, f"{' '.join(command)} prints no version: {ran.stdout}{ran.stderr}"
    return found[0]


def _capabilities(item: pytest.Item) -> list[str]:
    named = [str(name) for mark in item.iter_markers("proves") for name in mark.args]
    unknown = set(named) - set(CAPABILITIES)
    assert not unknown, f"{item.nodeid}: unknown capabilities {sorted(unknown)}; known: {CAPABILITIES}"
    return named


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("client")
    if mark is None or any(name == _PROPERTY for name, _ in item.user_properties):
        return
    name, *command = map(str, mark.args)
    said = {
        "client": name,
        "version": version(*command),
        "proves": _capabilities(item),
        "says": str(getattr(item, "function", item).__doc__).partition("\n")[0],
        "lacks": {str(each.args[0]): str(each.args[1]) for each in item.iter_markers("lacks")},
    }
    item.user_properties.append((_PROPERTY, said))


class _Results:
    """Collects the outcomes of all tests that drive a client, and writes them when the run ends."""

    def __init__(self, config: pytest.Config) -> None:
        self._named = config.getoption("--clients-results")
        self._config = config
        self._found: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = [value for name, value in report.user_properties if name == _PROPERTY]
        if said and (report.when == "call" or report.outcome != "passed"):
            assert isinstance(said[0], dict)
            self._found[report.nodeid] = {"test": report.nodeid, "outcome": report.outcome, **said[0]}

    def pytest_sessionfinish(self) -> None:
        cache: pytest.Cache | None = getattr(self._config, "cache", None)  # `-p no:cacheprovider`
        if not self._found or not (self._named or cache):
            return
        file = Path(self._named) if self._named or cache is None else cache.mkdir("clients") / "results.json"
        results = sorted(self._found.values(), key=lambda each: str(each["test"]))
        file.write_text(json.dumps(results, indent=1) + "\n")
