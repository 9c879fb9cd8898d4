"""Where events go: every line is JSON, whoever wrote it; and on a terminal no traceback shows what variables hold."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

SCRIPT = """
import logging
from iarproxy.cli.logs import configure_logging
configure_logging(logging.INFO)
logging.getLogger("iarproxy.store.ingest").error("blob %s cannot be kept", "sha256:1")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("a task broke")
logging.getLogger("elsewhere").info("chatter")
"""


def test_lines_of_other_loggers_are_json_too() -> None:
    """What a library or a room says to `logging` is a JSON object a line, its traceback included."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    kept, broke = [json.loads(line) for line in done.stderr.splitlines()]
    assert ("error", "blob sha256:1 cannot be kept") == (kept["level"], kept["event"])
    assert ("a task broke", True) == (broke["event"], "ZeroDivisionError" in broke["exception"])


TRACEBACK = """
import logging
import structlog
from iarproxy.cli.logs import configure_logging
configure_logging(logging.INFO)
def asks(secret):
    password = secret
    return 1 / (len(password) - 6)
for log in (structlog.get_logger(), logging.getLogger()):
    try:
        asks("".join(["can", "ary"]))
    except ZeroDivisionError:
        log.exception("it broke")
"""


def test_a_traceback_on_a_terminal_shows_no_variables() -> None:
    """Functions and lines only: among the variables may be a password."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", TRACEBACK], stderr=theirs, timeout=60, check=True)
        written = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert 2 == written.count("ZeroDivisionError")
    assert "canary" not in written
