"""Signals that come while the program is still being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A library of the program that tells who handles Ctrl-C, and then takes its time to be imported.
_SLOW = """
import select, signal
print(signal.getsignal(signal.SIGINT), flush=True)
select.select([], [], [], 60)
"""
_EARLY = pytest.mark.parametrize(
    ("library", "words"),
    [("typer", ["--help"]), ("sqlalchemy", ["bundle", "apply", "here", "--trust", "a.pub"]), ("aiohttp", ["serve"])],
    ids=["all commands", "a command below a group", "a command"],
)


def _starting(folder: Path, library: str, words: list[str], *around: str) -> subprocess.Popen[str]:
    """The program, to be importing that library for a minute; `around`: what starts it."""
    (folder / f"{library}.py").write_text(_SLOW)
    return subprocess.Popen(
        [*around, sys.executable, "-m", "iarproxy", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)},
        cwd=folder,
    )


@_EARLY
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_it_without_a_word(
    tmp_path: Path, library: str, words: list[str], sent: signal.Signals
) -> None:
    """Who presses Ctrl-C at once sees no traceback, and the shell sees the signal."""
    with _starting(tmp_path, library, words) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(sent)
        _, said = process.communicate(timeout=30)
    assert (-sent, "") == (process.returncode, said)


@_EARLY
def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path: Path, library: str, words: list[str]) -> None:
    """What is started in the background of a script is not ended by the Ctrl-C that was meant for another."""
    with _starting(tmp_path, library, words, "sh", "-c", 'trap "" INT; exec "$@"', "sh") as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        process.terminate()
        process.communicate(timeout=30)
    assert str(signal.SIG_IGN) == told.strip()
