"""What `iarproxy check-config` says of a file, in a process of its own: a command sets where all later logs go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ended import Ended


def checked(file: Path, *options: str) -> Ended:
    """Have the file checked."""
    command = [sys.executable, "-m", "iarproxy", "check-config", *options, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Ended(ran.returncode, ran.stdout, ran.stderr)
