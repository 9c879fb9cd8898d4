"""One bundle that several people apply at the same moment: it is applied once, and every one of them is content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from airgap_bundles import fresh_site, made


def test_four_at_once(tmp_path: Path) -> None:
    """Four processes apply it: one says that it did, the others that it is unchanged; each has its receipt."""
    bundle, site = made(tmp_path), fresh_site(tmp_path / "site")
    receipts = [tmp_path / f"receipt-{number}" for number in range(4)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "iarproxy", *map(str, bundle.applying("--receipt", receipt, "--json"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=site.environment,
            cwd=site.folder,
        )
        for receipt in receipts
    ]
    said = [each.communicate(timeout=100)[0] for each in running]
    assert [0] * 4 == [each.returncode for each in running], said
    assert 1 == sum('"outcome": "applied"' in each for each in said), said
    assert bundle.origin.pins() == site.pins()
    assert all(each.stat().st_size for each in receipts)
