"""The tools that `tests/go_tools.py` built come first where programs are looked for."""

from __future__ import annotations

import os

from go_tools import search_path

os.environ["PATH"] = search_path()
