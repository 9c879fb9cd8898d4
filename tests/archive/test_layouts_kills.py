"""An import that is killed: nothing is pinned until everything is held, and again goes on from what is there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airgap_world import Place, a_site
from images import image, random_blob
from tarballs import layout, tar

KILLS = 2 * int(os.environ.get("IARPROXY_SEEDS", "2"))
NAMES = {f"registry.example.com/team/app:{number}" for number in range(4)}


def killed(site: Place, archive: Path, delay: float) -> bool:
    """Run an import that is killed some moments after its first bytes arrived; whether it was."""
    command = [sys.executable, "-m", "iarproxy", "layout", "import", str(archive), "--reason", "carried over"]
    process = subprocess.Popen(command, env=site.environment, cwd=site.folder, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and not any((site.store / "ingest").glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    return process.wait() != 0


@pytest.mark.timeout(120 + 30 * KILLS)
def test_killed_and_done_again(tmp_path: Path) -> None:
    """After each kill there are no names or all of them; the last run finishes, and everything can be pulled."""
    images = {
        name: image(random_blob(3_000_000, 2 * n), random_blob(500_000, 2 * n + 1))
        for n, name in enumerate(sorted(NAMES))
    }
    archive = tmp_path / "theirs.tar"
    archive.write_bytes(tar(layout(*((each, name) for name, each in images.items()))))
    random.seed(KILLS)
    for number in range(KILLS // 2):
        site = a_site(tmp_path / f"site-{number}")
        for _ in range(2):
            killed(site, archive, random.random() * 0.1)
            pins = site.pins()
            assert set(pins) in (set(), NAMES)
            for digest in pins.values():
                assert digest in site.blobs()
        site.done("layout", "import", archive, "--reason", "carried over")
        assert {name: str(each.digest) for name, each in images.items()} == site.pins()
    with site.serving():
        for name, each in images.items():
            assert str(each.digest) in site.pull(name)
    assert 0 == site.run("ledger", "verify").code
