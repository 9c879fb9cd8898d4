"""Documents that commands write: to a new file, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iarproxy.cli.writing import output
from iarproxy.errors import Refused


def test_a_new_file_only(tmp_path: Path) -> None:
    """What exists is not touched."""
    with output(tmp_path / "new") as sink:
        sink.write(b"text")
    with pytest.raises(Refused, match="exists; name a new file"), output(tmp_path / "new"):
        raise AssertionError("opened")
    assert b"text" == (tmp_path / "new").read_bytes()


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    """Neither where the command fails, nor where the disk does when the last bytes are to be written."""
    with pytest.raises(KeyError), output(tmp_path / "failed"):
        raise KeyError

    def write_to_the_end() -> None:
        with output(tmp_path / "full") as sink:
            sink.write(b"text")
            os.close(sink.fileno())

    with pytest.raises(OSError, match="Bad file descriptor"):
        write_to_the_end()
    assert [] == list(tmp_path.iterdir())
