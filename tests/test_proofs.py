"""The plugin that keeps what tests prove about clients is itself tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

import proofs

TESTS = """
import pytest
pytestmark = pytest.mark.client("python", "{python}", "--version")

@pytest.mark.proves("tag", "digest")
def test_good():
    'It does.'

@pytest.mark.proves("resume")
@pytest.mark.lacks("referrers", "it asks for none")
def test_bad(): assert False

@pytest.mark.proves("tag")
@pytest.mark.skip(reason="not here")
def test_skipped(): pass

{unmarked}
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_results(tmp_path: Path, workers: int) -> None:
    """Name, version as the program prints it, capabilities and outcome; with and without workers; none of a skip."""
    (tmp_path / "test_it.py").write_text(TESTS.format(python=sys.executable, unmarked=""))
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "-p", "proofs", "-n", str(workers), "--clients-results", str(file)]
    ran = run([*command, "-c", "/dev/null", "."], cwd=tmp_path, env=_environment(), capture_output=True, check=False)
    assert ran.returncode == 1, ran.stderr
    bad, good = json.loads(file.read_text())
    version = ".".join(map(str, sys.version_info[:3]))
    assert (good["client"], good["version"], good["outcome"]) == ("python", version, "passed")
    assert (good["proves"], good["lacks"], good["test"]) == (["tag", "digest"], {}, "test_it.py::test_good")
    assert good["says"] == "It does."
    assert (bad["outcome"], bad["lacks"]) == ("failed", {"referrers": "it asks for none"})


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(proofs.__file__).parent), "PATH": "/usr/bin:/bin"}


def test_an_unknown_capability(tmp_path: Path) -> None:
    """A capability that no column has is an error that names the ones there are."""
    unmarked = '@pytest.mark.proves("speed")\ndef test_odd(): pass'
    (tmp_path / "test_it.py").write_text(TESTS.format(python=sys.executable, unmarked=unmarked))
    command = [sys.executable, "-m", "pytest", "-p", "proofs", "-c", "/dev/null", "-k", "odd", "."]
    ran = run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert "unknown capabilities ['speed']" in ran.stdout
    assert "mirror mode" in ran.stdout


def test_no_cache(tmp_path: Path) -> None:
    """Without a cache and a named file the results are kept nowhere."""
    (tmp_path / "test_it.py").write_text(TESTS.format(python=sys.executable, unmarked=""))
    command = [sys.executable, "-m", "pytest", "-p", "proofs", "-p", "no:cacheprovider", "-c", "/dev/null", "."]
    ran = run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed, 1 skipped" in ran.stdout
    assert not list(tmp_path.rglob("results.json"))
