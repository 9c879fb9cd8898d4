"""Giving up root for the owner of the store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65_534
BECOME = """
import os, sys
from pathlib import Path
from iarproxy.cli.holdings import become_owner
become_owner(Path(sys.argv[1]))
del sys.path[:]  # as where nobody but root may read Python's own folder
sys.path_importer_cache.clear()
print(os.geteuid(), b"a".decode("ascii", "replace"), "host.example".encode("idna").decode())
"""


@pytest.fixture
def store() -> Iterator[Path]:
    """A folder of another user, which that user may come to."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give itself up; run as root")
def test_what_is_needed_later_is_read_before(store: Path) -> None:
    """The owner may not be able to read the folder that Python lies in: names of hosts are still encoded."""
    ran = subprocess.run([sys.executable, "-c", BECOME, store], capture_output=True, text=True, timeout=60, check=False)
    assert (0, f"{NOBODY} a host.example\n") == (ran.returncode, ran.stdout), ran.stderr
